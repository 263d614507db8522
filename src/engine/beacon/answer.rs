//! Who answers a question that everybody heard.
//!
//! All members compute the same order for a question, so that only the first few answer and nobody has to agree on it. Which
//! ones differs from question to question. When the same question comes again, its answers were lost or refused, and the
//! circle widens fourfold each time: a seeker in a hive of 300 is never hit by 300 answers at once, and never left alone.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::Nonce;
use crate::engine::id::PeerId;

/// Members that answer a question the first time it is heard.
pub const ANSWERERS: usize = 3;
/// Questions that are remembered to notice repetitions: more than all seekers of a large hive ask in [`QUESTION_MEMORY_MS`].
const QUESTIONS_MAX: usize = 1_024;
/// How long a question counts as the same one.
const QUESTION_MEMORY_MS: u64 = 10_000;

/// A member's place in the order for one question: lower answers sooner.
pub fn rank(question: &[u8], peer: &PeerId) -> u64 {
    let digest = Sha256::new().chain_update(question).chain_update(peer.as_str()).finalize();
    let mut head = [0u8; 8];
    head.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(head)
}

/// Whether `me` is among the first `answerers` of those alive. `alive` may or may not hold `me`.
pub fn is_among_first<'a>(
    question: &[u8],
    me: &PeerId,
    alive: impl IntoIterator<Item = &'a PeerId>,
    answerers: usize,
) -> bool {
    let mine = (rank(question, me), me);
    alive.into_iter().filter(|peer| *peer != me && (rank(question, peer), *peer) < mine).take(answerers).count()
        < answerers
}

#[derive(Clone, Copy, Debug)]
struct Question {
    heard: u32,
    last_ms: u64,
}

/// Remembers the questions heard lately, to tell a repetition from a new one.
#[derive(Clone, Debug, Default)]
pub struct QuestionMemory {
    questions: BTreeMap<Nonce, Question>,
}

impl QuestionMemory {
    /// Notes that a broadcast question was heard, and says whether `me` answers it this time.
    pub fn answers<'a>(
        &mut self,
        nonce: &Nonce,
        me: &PeerId,
        alive: impl IntoIterator<Item = &'a PeerId>,
        now_ms: u64,
    ) -> bool {
        if self.questions.len() >= QUESTIONS_MAX && !self.questions.contains_key(nonce) {
            self.forget(now_ms);
        }
        let question = self.questions.entry(*nonce).or_insert(Question { heard: 0, last_ms: now_ms });
        if now_ms.saturating_sub(question.last_ms) > QUESTION_MEMORY_MS {
            question.heard = 0;
        }
        let repetitions = question.heard;
        question.heard = question.heard.saturating_add(1);
        question.last_ms = now_ms;
        let answerers = 4usize.checked_pow(repetitions).and_then(|factor| ANSWERERS.checked_mul(factor));
        is_among_first(nonce, me, alive, answerers.unwrap_or(usize::MAX))
    }

    /// Drops what is too old, and the oldest one when nothing is.
    fn forget(&mut self, now_ms: u64) {
        self.questions.retain(|_, question| now_ms.saturating_sub(question.last_ms) <= QUESTION_MEMORY_MS);
        if self.questions.len() >= QUESTIONS_MAX {
            let oldest = self.questions.iter().min_by_key(|(_, question)| question.last_ms).map(|(nonce, _)| *nonce);
            if let Some(nonce) = oldest {
                self.questions.remove(&nonce);
            }
        }
    }

    /// Number of remembered questions.
    pub fn len(&self) -> usize {
        self.questions.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.questions.is_empty()
    }
}

/// A short digest of the seekers that a node has in view, itself included: two nodes that show the same one see the same set.
pub fn seekers_digest<'a>(seekers: impl IntoIterator<Item = &'a PeerId>) -> [u8; 16] {
    let mut sorted: Vec<&PeerId> = seekers.into_iter().collect();
    sorted.sort();
    sorted.dedup();
    let mut hasher = Sha256::new();
    for peer in sorted {
        hasher.update(peer.as_str());
        hasher.update([0]);
    }
    let mut head = [0u8; 16];
    head.copy_from_slice(&hasher.finalize()[..16]);
    head
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peers(count: usize) -> Vec<PeerId> {
        (0..count).map(|number| PeerId::new(format!("peer-{number}"))).collect()
    }

    fn answering(memories: &mut [QuestionMemory], nonce: &Nonce, all: &[PeerId], now_ms: u64) -> usize {
        all.iter()
            .zip(memories)
            .map(|(me, memory)| memory.answers(nonce, me, all.iter(), now_ms))
            .filter(|&yes| yes)
            .count()
    }

    #[test]
    fn three_of_a_hundred_answer_and_more_when_it_repeats() {
        let all = peers(100);
        let mut memories = vec![QuestionMemory::default(); all.len()];
        let counts: Vec<usize> = (0u64..5).map(|step| answering(&mut memories, &[9; 16], &all, step * 250)).collect();
        assert_eq!(counts, [3, 12, 48, 100, 100]);
        assert_eq!(answering(&mut memories, &[8; 16], &all, 1_000), 3, "another question starts anew");
        assert_eq!(answering(&mut memories, &[9; 16], &all, 60_000), 3, "an old one too");
    }

    #[test]
    fn a_member_that_holds_nobody_alive_answers() {
        let me = PeerId::new("me");
        assert!(QuestionMemory::default().answers(&[1; 16], &me, [], 0));
        assert!(is_among_first(b"question", &me, [&me], 1));
    }

    #[test]
    fn different_questions_are_answered_by_different_members() {
        let all = peers(50);
        let mut answered = std::collections::BTreeSet::new();
        for number in 0..100u8 {
            answered.extend(all.iter().filter(|me| is_among_first(&[number; 16], me, all.iter(), ANSWERERS)));
        }
        assert!(answered.len() > 45, "{} of 50 had a turn", answered.len());
    }

    #[test]
    fn the_digest_is_of_the_set() {
        let all = peers(3);
        assert_eq!(seekers_digest(&all), seekers_digest(all.iter().rev()));
        assert_eq!(seekers_digest(&all), seekers_digest(all.iter().chain(&all)));
        assert_ne!(seekers_digest(&all), seekers_digest(&all[..2]));
        assert_ne!(
            seekers_digest([&PeerId::new("ab"), &PeerId::new("c")]),
            seekers_digest([&PeerId::new("a"), &PeerId::new("bc")])
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn memory_is_bounded_whatever_is_asked(questions in proptest::collection::vec((any::<u16>(), 0u64..20_000), 0..3_000)) {
            let mut memory = QuestionMemory::default();
            let me = PeerId::new("me");
            let mut now_ms = 0;
            for (number, pause_ms) in questions {
                now_ms += pause_ms / 100;
                let mut nonce = [0; 16];
                nonce[..2].copy_from_slice(&number.to_be_bytes());
                memory.answers(&nonce, &me, [], now_ms);
                prop_assert!(memory.len() <= QUESTIONS_MAX);
            }
        }
    }
}
