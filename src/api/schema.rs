//! Shapes for OpenAPI of what the engine defines: it describes itself to nobody.
//!
//! Never done here: shapes of this module's own types, which are derived.

use std::borrow::Cow;

use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::engine::access::Scope;
use crate::engine::buildlog::FirstError;
use crate::engine::event::{Event, EventKind};
use crate::engine::id::{EpochId, HiveId, JobId, PeerId, SessionId, Sha256Hash, Token, UnixMillis};
use crate::engine::job::{Artifact, AttemptState, FailureClass, JobSpec, JobState};
use crate::engine::member::Inventory;

macro_rules! described {
    ($($kind:ident $name:ident: $about:literal,)*) => {
        $(
            impl PartialSchema for $name {
                fn schema() -> RefOr<Schema> {
                    ObjectBuilder::new().schema_type(Type::$kind).description(Some($about)).build().into()
                }
            }

            impl ToSchema for $name {
                fn name() -> Cow<'static, str> {
                    Cow::Borrowed(stringify!($name))
                }
            }
        )*
    };
}

described! {
    String JobId: "A UUID.",
    String SessionId: "A UUID.",
    String PeerId: "A multihash in base58: who a node is.",
    String HiveId: "32 hexadecimal digits.",
    String EpochId: "32 hexadecimal digits.",
    String Sha256Hash: "64 hexadecimal digits.",
    String UnixMillis: "A time, RFC 3339, UTC.",
    String Scope: "read, queue, drone or admin.",
    String EventKind: "assign, start, complete, fail, control and so on.",
    String JobState: "needed, delegated, received, blocked, failed, cancelled or quarantined.",
    String AttemptState: "assigned, building, uploading, accepted, failed, lost, stale or cancelled.",
    String FailureClass: "Whose fault a failure is.",
    Object Token: "Tells attempts apart: epoch and counter.",
    Object Artifact: "A file that a job produced: name, sha256, size.",
    Object Event: "id, at, type, message, and what it concerns: drone, package, job, session.",
    Object FirstError: "The line that tells best what went wrong: line, offset, text.",
    Object JobSpec: "What is to be done: id, target, work, priority, labels, depends_on and so on; see hive queue import --help.",
    Object Inventory: "What a machine is: cpu_cores, ram_gb, arch, distro, tools, labels and so on.",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_that_are_described_are_those_that_are_written() {
        let has = |about: RefOr<Schema>, words: Vec<String>| {
            let text = serde_json::to_string(&about).expect("JSON");
            for word in words {
                assert!(text.contains(&word), "{word} is not in {text}");
            }
        };
        has(Scope::schema(), Scope::ALL.iter().map(ToString::to_string).collect());
        let states = [
            JobState::Needed,
            JobState::Delegated,
            JobState::Received,
            JobState::Blocked,
            JobState::Failed,
            JobState::Cancelled,
            JobState::Quarantined,
        ];
        let word = |state: &JobState| serde_json::to_value(state).expect("JSON").as_str().expect("text").to_owned();
        has(JobState::schema(), states.iter().map(word).collect());
        let value = |value: serde_json::Value| value.is_string();
        assert!(value(serde_json::to_value(UnixMillis(1)).expect("JSON")), "times are texts");
        assert!(value(serde_json::to_value(Sha256Hash([0; 32])).expect("JSON")), "digests are texts");
    }
}
