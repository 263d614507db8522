//! Roles and the advisor policy as they stand in their files now.
//!
//! An operator who edits a policy expects the next ballot to follow it, so the files are read again before each answer. A file
//! that does not parse stops a start; while running it is reported and the last good definitions stay. Never done here: judging.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Config, ConfigError, Definition, DefinitionKind, Place, Problem, load_definitions};
use crate::engine::policy::Policy;
use crate::engine::role::{DefinitionError, RoleSet};

/// Roles and policy that this node goes by.
#[derive(Clone)]
pub(crate) struct Definitions {
    roles_dir: Option<PathBuf>,
    policies_dir: Option<PathBuf>,
    policy_name: String,
    /// Where the policy was chosen.
    policy_place: String,
    texts: (Vec<Definition>, Vec<Definition>),
    roles: Arc<RoleSet>,
    policy: Arc<Policy>,
    problem: Option<String>,
}

impl Definitions {
    /// Reads and checks everything; what is wrong is an error with file and line. `policy_place` is where the policy was chosen.
    pub(crate) fn load(config: &Config, policy_place: &str) -> Result<Self, ConfigError> {
        let texts = read(config.roles_dir.as_ref(), config.policies_dir.as_ref())?;
        let (roles, policy) = parse(&texts, &config.policy, policy_place)?;
        Ok(Self {
            roles_dir: config.roles_dir.clone(),
            policies_dir: config.policies_dir.clone(),
            policy_name: config.policy.clone(),
            policy_place: policy_place.to_owned(),
            texts,
            roles: Arc::new(roles),
            policy: Arc::new(policy),
            problem: None,
        })
    }

    /// Reads the files again; takes them over when they changed and are good.
    pub(crate) fn refresh(&mut self) {
        let texts = match read(self.roles_dir.as_ref(), self.policies_dir.as_ref()) {
            Ok(texts) if texts == self.texts => {
                self.problem = None;
                return;
            }
            Ok(texts) => texts,
            Err(error) => return self.report(error.to_string()),
        };
        match parse(&texts, &self.policy_name, &self.policy_place) {
            Ok((roles, policy)) => {
                tracing::info!(policy = policy.name(), "roles or advisor policy changed on disk, taken over");
                self.texts = texts;
                self.roles = Arc::new(roles);
                self.policy = Arc::new(policy);
                self.problem = None;
            }
            Err(error) => self.report(error.to_string()),
        }
    }

    fn report(&mut self, problem: String) {
        if self.problem.as_ref() != Some(&problem) {
            tracing::warn!(%problem, "an edited role or policy cannot be used, the last good one stays");
            self.problem = Some(problem);
        }
    }

    /// All roles.
    pub(crate) fn roles(&self) -> Arc<RoleSet> {
        Arc::clone(&self.roles)
    }

    /// The policy by which this node advises.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy)
    }

    /// Why the files on disk are not followed, if they are not.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }
}

fn read(
    roles_dir: Option<&PathBuf>,
    policies_dir: Option<&PathBuf>,
) -> Result<(Vec<Definition>, Vec<Definition>), ConfigError> {
    let roles = load_definitions(DefinitionKind::Role, roles_dir.map(PathBuf::as_path))?;
    let policies = load_definitions(DefinitionKind::Policy, policies_dir.map(PathBuf::as_path))?;
    Ok((roles, policies))
}

fn refused(error: DefinitionError) -> ConfigError {
    ConfigError::one(Problem::in_file(&error.file, error.line, error.what))
}

fn parse(
    texts: &(Vec<Definition>, Vec<Definition>),
    policy_name: &str,
    policy_place: &str,
) -> Result<(RoleSet, Policy), ConfigError> {
    let place = |definition: &Definition| match &definition.place {
        Place::File(path) => path.display().to_string(),
        Place::BuiltIn => format!("built-in {}", definition.name),
    };
    let roles = RoleSet::parse(texts.0.iter().map(|role| (place(role), role.text.as_str()))).map_err(refused)?;
    let mut chosen = None;
    let mut names = Vec::new();
    for definition in &texts.1 {
        let policy = match Policy::parse(&place(definition), &definition.text, &roles) {
            Ok(policy) => policy,
            // An operator who keeps other roles than the shipped ones need not care about shipped policies that he does not use.
            Err(error) if definition.place == Place::BuiltIn && definition.name != policy_name => {
                tracing::debug!(%error, "a built-in policy does not fit these roles");
                continue;
            }
            Err(error) => return Err(refused(error)),
        };
        names.push(policy.name().to_owned());
        if policy.name() == policy_name {
            chosen = Some(policy);
        }
    }
    match chosen {
        Some(policy) => Ok((roles, policy)),
        None => {
            let message =
                format!("policy: no advisor policy is named {policy_name:?}; expected one of: {}", names.join(", "));
            Err(ConfigError::one(Problem { place: policy_place.to_owned(), message }))
        }
    }
}
