//! What `emerge --pretend` may print, and what is made of it: whatever is listed is an atom, whatever is told is one short sentence.

use super::pretend;
use crate::engine::grammar;
use crate::fuzzing::{SMALL, attack};

#[test]
fn emerge_output() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/portage/pretend");
    let files = std::fs::read_dir(directory).expect("recorded output").flatten();
    let mut paths: Vec<_> = files.map(|file| file.path()).collect();
    paths.sort();
    let recorded = paths.iter().map(|path| std::fs::read(path).expect("recorded output")).collect();
    attack("emerge_output", recorded, 8 * SMALL, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let listed = pretend::list(&text);
        for planned in &listed {
            grammar::gentoo_atom(&planned.atom()).expect("only atoms are listed");
        }
        assert!(listed.len() <= text.lines().count());
        let trouble = pretend::trouble(&text);
        if let Some(trouble) = &trouble {
            assert!(!trouble.sentence().is_empty());
        }
        !listed.is_empty() || trouble.is_some()
    });
}
