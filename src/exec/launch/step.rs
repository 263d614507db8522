//! One program of an attempt, as it is asked for: by the agent for itself, or of the helper.
//!
//! The helper runs as root and believes nothing: [`Step::check`] is where what it is told is checked. Never done here: starting
//! it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::engine::id::{JobId, Token};
use crate::exec::portage::PortageStep;
use crate::exec::secrets::Secrets;

/// One program of an attempt. This is also what the helper is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::exec) struct Step {
    pub(in crate::exec) job: JobId,
    pub(in crate::exec) token: Token,
    /// Below the attempt's directory; empty: the directory itself.
    pub(in crate::exec) directory: String,
    pub(in crate::exec) argv: Vec<String>,
    /// Beyond the fixed ones; names are a closed list.
    pub(in crate::exec) environment: BTreeMap<String, String>,
    pub(in crate::exec) processes_max: u32,
    pub(in crate::exec) memory_max_mb: u64,
    /// False for the programs that fetch sources: they need what the sandbox hides.
    pub(in crate::exec) sandbox: bool,
    /// Without any network, where there is a sandbox.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(in crate::exec) cut_off: bool,
    /// It is hive's own choice and runs nothing of the sources, so it is trusted with ports: closing them takes a moment, at every step.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(in crate::exec) own_tool: bool,
    /// What the job named, for its environment.
    #[serde(default, skip_serializing_if = "Secrets::is_empty")]
    pub(in crate::exec) secrets: Secrets,
    /// It is one of Portage's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::exec) portage: Option<PortageStep>,
}

/// Names that a step may add to its environment. Nothing that changes how a program is loaded.
const ENVIRONMENT_NAMES: [&str; 6] = [
    "SOURCE_DATE_EPOCH",
    "FAKEROOTDONTTRYCHOWN",
    "GIT_TERMINAL_PROMPT",
    "GIT_ALLOW_PROTOCOL",
    "GIT_SSH_COMMAND",
    "MAVEN_OPTS",
];

impl Step {
    /// What can be wrong with it, whoever sent it.
    pub(in crate::exec) fn check(&self) -> Result<(), String> {
        crate::engine::grammar::argv(&self.argv).map_err(|error| error.to_string())?;
        let directory = Path::new(&self.directory);
        if directory.components().any(|part| !matches!(part, std::path::Component::Normal(_)))
            || self.directory.contains('\0')
        {
            return Err(format!("directory {:?} is not below the attempt", self.directory));
        }
        for (name, value) in &self.environment {
            if !ENVIRONMENT_NAMES.contains(&name.as_str()) || value.contains('\0') || value.len() > 1_024 {
                return Err(format!("environment variable {name} is not allowed"));
            }
        }
        self.secrets.check()?;
        if !(8..=1 << 20).contains(&self.processes_max) || self.memory_max_mb > 1 << 24 {
            return Err("limits are out of range".to_owned());
        }
        match &self.portage {
            Some(PortageStep::Merge { atom }) => {
                crate::engine::grammar::gentoo_atom(atom).map_err(|error| error.to_string())
            }
            Some(PortageStep::Ask) | None => Ok(()),
        }
    }
}
