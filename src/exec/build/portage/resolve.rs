//! Backend `resolve`: what has to be built for some atoms or sets, in which order and because of whom, as `plan.json`
//! ([`crate::engine::plan`]).
//!
//! The order comes from `emerge --pretend`, the edges from the dependency strings of the tree, read by Portage's own interpreter
//! with Portage's own parser (`edges.py`). Both run as the build user and change nothing. Never done here: making jobs of it.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use futures::future::BoxFuture;

use super::super::Backend;
use super::super::collect::{self, Found};
use super::super::run::{Program, Run};
use super::super::verdict::Failure;
use super::{list, tree};
use crate::engine::plan::{PLAN_MAX_BYTES, Plan};

const EDGES: &str = include_str!("edges.py");
/// Below the attempt's directory: the list without edges, and the plan.
const LIST: &str = "build/list.json";
const PLAN: &str = "build/plan.json";

pub(in crate::exec::build) struct Resolve {
    targets: Vec<String>,
    empty_tree: bool,
    /// Portage's interpreter on this node.
    python: String,
}

impl Resolve {
    pub(in crate::exec::build) fn new(targets: Vec<String>, empty_tree: bool) -> Self {
        Self { targets, empty_tree, python: "python3".to_owned() }
    }
}

impl Backend for Resolve {
    fn prepare<'a>(&'a mut self, run: &'a mut Run) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            run.started(None).await;
            let tree = tree(run).await?;
            let packages = list(run, &self.targets, self.empty_tree).await?;
            let plan = Plan { version: 1, tree, packages };
            plan.check().map_err(|error| Failure::policy(error.to_string()))?;
            let json = serde_json::to_vec(&plan).map_err(|error| Failure::infra(error.to_string()))?;
            fs::write(run.directory.join(LIST), json)?;
            self.python = run.inner.executor.options().portage.program("python3");
            Ok(())
        })
    }

    fn program(&self) -> Program {
        Program::asking_portage([&self.python, "-c", EDGES, "list.json", "plan.json"].map(str::to_owned).to_vec())
    }

    fn collect<'a>(&'a self, run: &'a mut Run) -> BoxFuture<'a, Result<Vec<Found>, Failure>> {
        Box::pin(async move {
            let owner = run.inner.executor.file_owner();
            let mut json = Vec::new();
            let file = collect::open_regular(&run.directory, Path::new(PLAN), owner)?;
            file.take(PLAN_MAX_BYTES as u64 + 1).read_to_end(&mut json)?;
            let plan = Plan::read(&json).map_err(|error| Failure::infra(error.to_string()))?;
            run.note(&format!("{} packages in the plan", plan.packages.len()));
            Ok(vec![Found { name: crate::engine::plan::PLAN_NAME.to_owned(), path: PLAN.to_owned(), expected: None }])
        })
    }
}
