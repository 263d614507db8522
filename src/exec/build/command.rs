//! Backend `command`: one program in a checkout, files by patterns.
//!
//! Never done here: a shell. Who wants one names it.

use std::collections::BTreeMap;

use futures::future::BoxFuture;

use super::collect::{self, Found};
use super::run::{Program, Run, SOURCE_DIR};
use super::verdict::Failure;
use super::{Backend, sources};
use crate::engine::job::Source;

pub(super) struct Command {
    source: Source,
    argv: Vec<String>,
    artifacts: Vec<String>,
}

impl Command {
    pub(super) fn new(source: Source, argv: Vec<String>, artifacts: Vec<String>) -> Self {
        Self { source, argv, artifacts }
    }
}

impl Backend for Command {
    fn prepare<'a>(&'a mut self, run: &'a mut Run) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(sources::bring(run, &self.source))
    }

    fn program(&self) -> Program {
        Program {
            directory: SOURCE_DIR.to_owned(),
            argv: self.argv.clone(),
            environment: BTreeMap::new(),
            sandbox: true,
            portage: None,
        }
    }

    fn collect<'a>(&'a self, run: &'a mut Run) -> BoxFuture<'a, Result<Vec<Found>, Failure>> {
        let (root, patterns) = (run.directory.clone(), self.artifacts.clone());
        let bytes_max = run.inner.executor.options().artifacts_max_bytes;
        Box::pin(run.guarded(async move {
            let found = tokio::task::spawn_blocking(move || collect::matching(&root, SOURCE_DIR, &patterns, bytes_max));
            found.await.map_err(|error| Failure::infra(error.to_string()))?
        }))
    }
}
