//! What `gpgv` may say on its status channel: a package counts only when it said so, once, and nothing against it.

use super::verdict;
use crate::fuzzing::{SMALL, attack};

#[test]
fn gpgv_status() {
    let good = "[GNUPG:] NEWSIG\n[GNUPG:] KEY_CONSIDERED 0123 0\n[GNUPG:] SIG_ID x 2026-01-01 5\n[GNUPG:] GOODSIG 0123 Somebody\n\
                [GNUPG:] VALIDSIG 0123 2026-01-01 5 0 4 0 1 10 01 0123\n";
    let all = [
        good,
        "[GNUPG:] NEWSIG\n[GNUPG:] BADSIG 0123 Somebody\n",
        "[GNUPG:] NEWSIG\n[GNUPG:] ERRSIG 0123 1 10 00 5 9\n[GNUPG:] NO_PUBKEY 0123\n",
        "[GNUPG:] NEWSIG\n[GNUPG:] EXPKEYSIG 0123 Somebody\n[GNUPG:] VALIDSIG 0123\n",
        "[GNUPG:] NODATA 1\n",
    ];
    attack("gpgv_status", all.iter().map(|text| text.as_bytes().to_vec()).collect(), SMALL, |bytes| {
        let status = String::from_utf8_lossy(bytes);
        assert!(verdict("part", &status, false).is_err(), "gpgv failed");
        let words: Vec<&str> =
            status.lines().filter_map(|line| line.strip_prefix("[GNUPG:] ")?.split(' ').next()).collect();
        let taken = verdict("part", &status, true).is_ok();
        if taken {
            assert!(words.contains(&"GOODSIG") && words.contains(&"VALIDSIG"), "{words:?}");
            for against in ["BADSIG", "EXPKEYSIG", "REVKEYSIG", "EXPSIG", "NO_PUBKEY", "ERRSIG"] {
                assert!(!words.contains(&against), "{against}: {words:?}");
            }
        }
        taken
    });
}
