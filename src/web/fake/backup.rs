//! The node of the tests makes a backup of a few bytes.

use super::{FakeNode, once};
use crate::web::backup::{BackupApi, BackupFile};
use crate::web::node::Answer;

impl BackupApi for FakeNode {
    fn backup(&self) -> Answer<'_, BackupFile> {
        self.act("backup".to_owned());
        self.later(BackupFile { name: "hive-00000000-1.backup".to_owned(), size_bytes: 6, bytes: once(b"backup") })
    }
}
