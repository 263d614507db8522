//! Browsers that are signed in: a cookie that every member can check and nobody else can make.
//!
//! ```text
//!   v1 . over at (ms) . sign-outs so far . random . admin | token NAME . MAC
//! ```
//!
//! Nothing is kept of a session. The MAC is by a key derived from the hive's secret, which all members hold, over the cookie, the hive, and
//! the digest that the replicated state holds of the key it was exchanged for: the secret alone makes no session, and a session ends with
//! its key, with the last "sign out everywhere", and after [`LIFE_MS`]. Never done here: deciding what a scope opens.

use std::time::Duration;

use super::shared::Shared;
use super::submitting::wait_until;
use super::{accepted, keys, propose};
use crate::api::{ApiResult, SessionsEnded};
use crate::clock::{now_ms, unix_now};
use crate::engine::access::{AccessChange, Scope};
use crate::engine::command::Command;
use crate::engine::id::UnixMillis;
use crate::engine::state::State;
use crate::keyring::{Keyring, Purpose};
use crate::web::node::{Holder, SignedIn};

/// How long a browser stays signed in.
const LIFE_MS: u64 = 12 * 3_600_000;
/// So far the clocks of two nodes may lie apart.
const CLOCKS_APART_MS: u64 = 300_000;
/// Longest cookie that is looked at, bytes.
const COOKIE_MAX: usize = 256;
/// How long a change may take before it is answered with "no quorum".
const TIMEOUT: Duration = Duration::from_secs(10);

/// Who signed in, as the cookie has it.
const ADMIN: &str = "admin";
const TOKEN: &str = "token ";

/// What is in a cookie besides its MAC.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cookie {
    over_at_ms: u64,
    epoch: u64,
    random: String,
    /// [`ADMIN`], or [`TOKEN`] and a name.
    who: String,
}

impl Cookie {
    /// Text before the MAC. A space is no character of a cookie's value.
    fn text(&self) -> String {
        let Self { over_at_ms, epoch, random, who } = self;
        format!("v1.{over_at_ms}.{epoch}.{random}.{}", who.replace(' ', ":"))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(5, '.');
        let (version, over_at_ms, epoch) = (parts.next()?, parts.next()?, parts.next()?);
        let (random, who) = (parts.next()?.to_owned(), parts.next()?.replace(':', " "));
        let cookie = Self { over_at_ms: over_at_ms.parse().ok()?, epoch: epoch.parse().ok()?, random, who };
        // Whatever is written in another way than this is not from here.
        (version == "v1" && cookie.text() == text).then_some(cookie)
    }
}

/// The key that a session was exchanged for: its digest, and its holder.
fn key_of(state: &State, who: &str, hive_ms: u64, now: UnixMillis) -> Option<([u8; 32], Holder)> {
    if who == ADMIN {
        let digest = state.admin_key()?.hash.digest;
        return Some((digest, Holder { name: "the admin key".to_owned(), scope: Scope::Admin, drone: None }));
    }
    let name = who.strip_prefix(TOKEN)?;
    let (_, token) = state.tokens().find(|(known, token)| *known == name && !token.is_over(hive_ms, now))?;
    let holder = Holder { name: format!("token {name}"), scope: token.scope, drone: token.drone.clone() };
    Some((token.digest, holder))
}

fn parts<'a>(hive: &'a [u8; 16], digest: &'a [u8; 32], text: &'a str) -> [&'a [u8]; 4] {
    [b"hive browser session v1", hive, digest, text.as_bytes()]
}

/// A cookie for whoever has a key with this holder.
fn make(
    keyring: &Keyring,
    state: &State,
    holder: &Holder,
    hive_ms: u64,
    now: UnixMillis,
) -> Option<(String, SignedIn)> {
    let who = if holder.name.starts_with(TOKEN) { holder.name.clone() } else { ADMIN.to_owned() };
    let (digest, holder) = key_of(state, &who, hive_ms, now)?;
    let random = hex::encode(rand::random::<[u8; 16]>());
    let over_at_ms = now.0.saturating_add(LIFE_MS);
    let cookie = Cookie { over_at_ms, epoch: state.session_epoch(), random, who };
    let text = cookie.text();
    let mac = keyring.signing().mac(Purpose::Session, &parts(&state.hive_id()?.0, &digest, &text));
    Some((format!("{text}.{}", hex::encode(mac)), SignedIn { holder, expires_at: UnixMillis(over_at_ms) }))
}

/// Whose cookie this is.
fn check(keyring: &Keyring, state: &State, cookie: &[u8], hive_ms: u64, now: UnixMillis) -> Option<SignedIn> {
    let text = std::str::from_utf8(cookie).ok().filter(|text| text.len() <= COOKIE_MAX)?;
    let (text, mac) = text.rsplit_once('.')?;
    let mac = hex::decode(mac).ok()?;
    let cookie = Cookie::parse(text)?;
    let (digest, holder) = key_of(state, &cookie.who, hive_ms, now)?;
    let hive = state.hive_id()?;
    let parts = parts(&hive.0, &digest, text);
    let authentic = keyring.keys().iter().any(|key| key.verify(Purpose::Session, &parts, &mac));
    let in_time = now.0 < cookie.over_at_ms && cookie.over_at_ms <= now.0.saturating_add(LIFE_MS + CLOCKS_APART_MS);
    let good = authentic && in_time && cookie.epoch == state.session_epoch();
    good.then_some(SignedIn { holder, expires_at: UnixMillis(cookie.over_at_ms) })
}

/// Exchanges a key for a cookie. One that acts as a drone opens nothing in a browser.
pub(super) fn sign_in(shared: &Shared, key: &[u8]) -> Option<(String, SignedIn)> {
    let holder = keys::holder(shared, key).filter(|holder| holder.scope != Scope::Drone)?;
    let (hive_ms, now) = (shared.hive_ms(now_ms()), unix_now());
    shared.read(|state| make(&shared.keyring, state, &holder, hive_ms, now))
}

/// Whose cookie this is; none when it is nobody's, or over.
pub(super) fn signed_in(shared: &Shared, cookie: &[u8]) -> Option<SignedIn> {
    let (hive_ms, now) = (shared.hive_ms(now_ms()), unix_now());
    shared.read(|state| check(&shared.keyring, state, cookie, hive_ms, now))
}

/// Signs all browsers out.
pub(super) async fn end_all(shared: &Shared, by: String) -> ApiResult<SessionsEnded> {
    let before = shared.read(State::session_epoch);
    accepted(propose(shared, Command::Access { change: AccessChange::EndSessions, by }, TIMEOUT).await?)?;
    wait_until(shared, |state| state.session_epoch() > before).await;
    Ok(SessionsEnded { times: shared.read(State::session_epoch) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::access::{KeyHash, token_digest};
    use crate::engine::command::{Batch, ENVELOPE_VERSION, Origin, Proposal};
    use crate::engine::id::{Epoch, EpochId, HiveId, PeerId};
    use crate::engine::member::{Inventory, MemberInfo};
    use crate::keyring::Secret;

    const NOW: UnixMillis = UnixMillis(1_762_605_296_789);

    struct Hive {
        state: State,
        index: u64,
    }

    impl Hive {
        fn new(id: u8) -> Self {
            let founder = MemberInfo {
                peer_id: PeerId::new("12D3KooWfounder"),
                name: "a".to_owned(),
                addresses: Vec::new(),
                incarnation: 1,
                version: "0".to_owned(),
                feature_level: 1,
                inventory: Inventory::default(),
            };
            let epoch = Epoch { id: EpochId([id; 16]), counter: 1 };
            let mut hive = Self { state: State::new(), index: 0 };
            hive.run(Command::Found { hive_id: HiveId([id; 16]), epoch, founder });
            hive.access(AccessChange::SetKey { hash: KeyHash::of([7; 16], b"the key") });
            let digest = token_digest(b"t");
            let lives_ms = Some(1_000);
            let (name, scope) = ("ci.1".to_owned(), Scope::Queue);
            hive.access(AccessChange::AddToken { name, scope, drone: None, digest, lives_ms });
            hive
        }

        fn access(&mut self, change: AccessChange) {
            self.run(Command::Access { change, by: "ann".to_owned() });
        }

        fn run(&mut self, command: Command) {
            self.index += 1;
            let origin = Origin { peer_id: PeerId::new("12D3KooWfounder"), incarnation: 1, sequence: self.index };
            let proposals = vec![Proposal::new(origin, &command)];
            let batch = Batch { version: ENVELOPE_VERSION, elapsed_ms: 1, at: NOW, proposals };
            let applied = self.state.apply(self.index, &batch).expect("applies");
            assert_eq!(applied.replies, [crate::engine::command::Reply::Done], "{command:?}");
        }
    }

    fn ring(secret: &str) -> Keyring {
        Keyring::new(&Secret::from_bytes(secret.as_bytes()))
    }

    fn admin() -> Holder {
        Holder { name: "the admin key".to_owned(), scope: Scope::Admin, drone: None }
    }

    #[test]
    fn a_session_is_good_at_every_member_until_its_time_its_key_or_all_sessions_end() {
        let (mut hive, ours) = (Hive::new(1), ring("b7c1a0ffee11d2d3b7c1a0ffee11d2d3"));
        let (cookie, signed) = make(&ours, &hive.state, &admin(), 0, NOW).expect("a cookie");
        assert!(cookie.bytes().all(|byte| byte.is_ascii_graphic() && !b"\",;\\".contains(&byte)), "{cookie}");
        let look = |hive: &Hive, cookie: &str, now| check(&ours, &hive.state, cookie.as_bytes(), 0, now);
        assert_eq!(look(&hive, &cookie, NOW), Some(signed.clone()), "another node has the same state");
        let last = UnixMillis(NOW.0 + LIFE_MS - 1);
        assert!(look(&hive, &cookie, last).is_some() && look(&hive, &cookie, UnixMillis(last.0 + 1)).is_none());
        let (other, _) = make(&ours, &hive.state, &admin(), 0, NOW).expect("another");
        assert_ne!(cookie, other);

        let elsewhere = Hive::new(2);
        assert!(look(&elsewhere, &cookie, NOW).is_none(), "another hive with the same secret and key");
        assert!(check(&ring("another secret of 32 characters!"), &hive.state, cookie.as_bytes(), 0, NOW).is_none());
        let rotated = Keyring::with_older(
            &Secret::from_bytes(b"new new new"),
            &[Secret::from_bytes(b"b7c1a0ffee11d2d3b7c1a0ffee11d2d3")],
        );
        assert!(
            check(&rotated, &hive.state, cookie.as_bytes(), 0, NOW).is_some(),
            "while the old secret is still good"
        );

        hive.access(AccessChange::EndSessions);
        assert!(look(&hive, &cookie, NOW).is_none(), "signed out everywhere");
        let (again, _) = make(&ours, &hive.state, &admin(), 0, NOW).expect("signs in again");
        assert!(look(&hive, &again, NOW).is_some());
        hive.access(AccessChange::SetKey { hash: KeyHash::of([8; 16], b"the next key") });
        assert!(look(&hive, &again, NOW).is_none(), "the key was rotated");
    }

    #[test]
    fn a_session_of_a_token_ends_with_it() {
        let (mut hive, ours) = (Hive::new(1), ring("b7c1a0ffee11d2d3b7c1a0ffee11d2d3"));
        let holder = Holder { name: "token ci.1".to_owned(), scope: Scope::Queue, drone: None };
        let (cookie, signed) = make(&ours, &hive.state, &holder, 0, NOW).expect("a cookie");
        assert_eq!(signed.holder, holder);
        let look = |hive: &Hive, hive_ms| check(&ours, &hive.state, cookie.as_bytes(), hive_ms, NOW);
        assert_eq!(look(&hive, 0).map(|signed| signed.holder), Some(holder));
        assert!(look(&hive, 10_000).is_none(), "its time is over");
        hive.access(AccessChange::RevokeToken { name: "ci.1".to_owned() });
        assert!(look(&hive, 0).is_none());
        let digest = token_digest(b"another");
        let (name, scope) = ("ci.1".to_owned(), Scope::Queue);
        hive.access(AccessChange::AddToken { name, scope, drone: None, digest, lives_ms: None });
        assert!(look(&hive, 0).is_none(), "another token of the same name");
    }

    #[test]
    fn whatever_is_changed_in_a_cookie_makes_it_nobodys() {
        let (hive, ours) = (Hive::new(1), ring("b7c1a0ffee11d2d3b7c1a0ffee11d2d3"));
        let (cookie, _) = make(&ours, &hive.state, &admin(), 0, NOW).expect("a cookie");
        for at in 0..cookie.len() {
            let mut bytes = cookie.clone().into_bytes();
            bytes[at] = if bytes[at] == b'1' { b'2' } else { b'1' };
            assert!(check(&ours, &hive.state, &bytes, 0, NOW).is_none(), "byte {at}");
        }
        let longer = format!("{cookie}00");
        for bad in ["", ".", "v1", "v1.1.1.1.admin", longer.as_str(), &"x".repeat(5_000)] {
            assert!(check(&ours, &hive.state, bad.as_bytes(), 0, NOW).is_none(), "{bad}");
        }
        // Signed well, and yet for longer than a session lives.
        let text = Cookie { over_at_ms: NOW.0 * 2, epoch: 0, random: "0".to_owned(), who: ADMIN.to_owned() }.text();
        let digest = hive.state.admin_key().expect("has one").hash.digest;
        let mac = ours.signing().mac(Purpose::Session, &parts(&[1; 16], &digest, &text));
        let endless = format!("{text}.{}", hex::encode(mac));
        assert!(check(&ours, &hive.state, endless.as_bytes(), 0, NOW).is_none());
    }

    /// Row 20 of the attack table: how far a guess is right is not told by how long its refusal takes. Welch's t of 20,000 samples of
    /// each kind, of which the slowest are the machine's own doing.
    #[test]
    fn row_20_a_wrong_key_is_refused_as_fast_wherever_it_is_wrong() {
        use rustix::time::{ClockId, clock_gettime};

        let hive = Hive::new(1);
        let guesses: [&[u8]; 2] = [b"xhe key", b"the kex"];
        let nanoseconds = || {
            let now = clock_gettime(ClockId::ThreadCPUTime);
            now.tv_sec * 1_000_000_000 + now.tv_nsec
        };
        let t = || {
            let mut taken: [Vec<i64>; 2] = [Vec::new(), Vec::new()];
            while taken.iter().any(|samples| samples.len() < 20_000) {
                let which = usize::from(rand::random::<bool>());
                let before = nanoseconds();
                let same = std::hint::black_box(keys::is_admin_key(&hive.state, std::hint::black_box(guesses[which])));
                taken[which].push(nanoseconds() - before);
                assert!(!same);
            }
            let [first, last] = taken.map(|mut samples| {
                samples.sort_unstable();
                samples.truncate(samples.len() * 9 / 10);
                let count = samples.len() as f64;
                let mean = samples.iter().sum::<i64>() as f64 / count;
                let variance =
                    samples.iter().map(|sample| (*sample as f64 - mean).powi(2)).sum::<f64>() / (count - 1.0);
                (mean, variance / count)
            });
            ((first.0 - last.0) / (first.1 + last.1).sqrt()).abs()
        };
        // A machine that does other things tells stories; one that is true is told every time.
        let told: Vec<f64> = (0..3).map(|_| t()).collect();
        assert!(told.iter().any(|t| *t < 4.5), "t = {told:?}");
    }
}
