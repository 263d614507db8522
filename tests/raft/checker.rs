//! Whether what clients saw of a job could have happened one after the other, each between its call and its answer.
//!
//! The search of Wing and Gong with the memory of Lowe: calls are put into an order step by step; what was tried once from the same set of
//! calls and the same state is not tried again. A call without an answer may have happened at any time after it was made, or never. A
//! search that takes too many steps decides nothing, and a run with one is invalid.

use std::collections::HashSet;

/// Steps of a search after which it is given up.
const STEPS_MAX: usize = 2_000_000;

/// What was asked of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Submit,
    Assign,
    /// With this token.
    Revoke(u64),
    Cancel,
    Read,
}

/// What was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    /// Token and number of the attempt.
    Assigned(u64, u32),
    NotFound,
    Stale,
    Conflict,
    Seen(Seen),
}

/// What a reader saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Nothing,
    Needed,
    /// With this token.
    Delegated(u64),
    Cancelled,
}

/// One call in a history. Times count calls and answers.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) job: u64,
    pub(crate) call: Call,
    pub(crate) called: u64,
    /// When it was answered, and what; none when it may still happen.
    pub(crate) answered: Option<(u64, Answer)>,
}

/// A job, as the order so far has made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Job {
    Absent,
    Needed {
        attempts: u32,
    },
    /// The token is not known when nobody was told.
    Delegated {
        attempts: u32,
        token: Option<u64>,
    },
    Cancelled,
}

impl Job {
    /// What becomes of it, if the call may have had that answer. Without an answer, whatever the call does.
    fn after(self, call: Call, answer: Option<Answer>) -> Option<Self> {
        let only = |expected: Answer, after: Self| answer.is_none_or(|answer| answer == expected).then_some(after);
        match (call, self) {
            (Call::Submit, Self::Absent) => only(Answer::Done, Self::Needed { attempts: 0 }),
            (Call::Submit, _) => only(Answer::Done, self),
            (Call::Assign, Self::Needed { attempts }) => match answer {
                Some(Answer::Assigned(token, number)) if number == attempts + 1 => {
                    Some(Self::Delegated { attempts: number, token: Some(token) })
                }
                Some(_) => None,
                None => Some(Self::Delegated { attempts: attempts + 1, token: None }),
            },
            (Call::Assign | Call::Cancel | Call::Revoke(_), Self::Absent) => only(Answer::NotFound, self),
            (Call::Assign, _) => only(Answer::Conflict, self),
            (Call::Revoke(asked), Self::Delegated { attempts, token }) => match (answer, token) {
                (Some(Answer::Done), None) => Some(Self::Needed { attempts }),
                (Some(Answer::Stale), None) => Some(self),
                (None, None) => Some(self),
                (_, Some(token)) if token == asked => only(Answer::Done, Self::Needed { attempts }),
                (_, Some(_)) => only(Answer::Stale, self),
                (Some(_), None) => None,
            },
            (Call::Revoke(_), _) => only(Answer::Stale, self),
            (Call::Cancel, _) => only(Answer::Done, Self::Cancelled),
            (Call::Read, _) => self.read(answer),
        }
    }

    fn read(self, answer: Option<Answer>) -> Option<Self> {
        match (self, answer) {
            (_, None)
            | (Self::Absent, Some(Answer::Seen(Seen::Nothing)))
            | (Self::Needed { .. }, Some(Answer::Seen(Seen::Needed)))
            | (Self::Cancelled, Some(Answer::Seen(Seen::Cancelled))) => Some(self),
            (Self::Delegated { attempts, token }, Some(Answer::Seen(Seen::Delegated(seen)))) => {
                token.is_none_or(|token| token == seen).then_some(Self::Delegated { attempts, token: Some(seen) })
            }
            _ => None,
        }
    }
}

/// The outcome of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Fine,
    /// There is no such order.
    Wrong,
    /// The search took too long.
    Undecided,
}

/// Judges the calls of one job.
pub(crate) fn judge(events: &[Event]) -> Verdict {
    if events.len() > 128 {
        return Verdict::Undecided;
    }
    let wanted = (0..).zip(events).filter(|(_, event)| event.answered.is_some());
    let wanted = wanted.fold(0u128, |mask, (position, _): (u32, _)| mask | 1 << position);
    let mut seen = HashSet::new();
    let mut waiting = vec![(0u128, Job::Absent)];
    let mut steps = 0;
    while let Some((done, job)) = waiting.pop() {
        if done & wanted == wanted {
            return Verdict::Fine;
        }
        if !seen.insert((done, job)) {
            continue;
        }
        steps += 1;
        if steps > STEPS_MAX {
            return Verdict::Undecided;
        }
        let left = || (0u32..).zip(events).filter(|(position, _)| done & (1 << position) == 0);
        let earliest = left().filter_map(|(_, event)| event.answered.map(|(at, _)| at)).min().unwrap_or(u64::MAX);
        for (position, event) in left().filter(|(_, event)| event.called < earliest) {
            if let Some(after) = job.after(event.call, event.answered.map(|(_, answer)| answer)) {
                waiting.push((done | 1 << position, after));
            }
        }
        // A call without an answer, which took another way than the one assumed when the token is not known.
        let revokes = left().filter(|(_, event)| event.answered.is_none() && event.called < earliest);
        for (position, event) in revokes {
            if let (Call::Revoke(_), Job::Delegated { attempts, token: None }) = (event.call, job) {
                waiting.push((done | 1 << position, Job::Needed { attempts }));
            }
        }
    }
    Verdict::Wrong
}

/// Tokens are given once, and later ones are higher.
pub(crate) fn tokens_rise(events: &[Event]) -> Result<(), String> {
    let mut given: Vec<(u64, u64, u64)> = Vec::new();
    for event in events {
        if let Some((answered, Answer::Assigned(token, _))) = event.answered {
            given.push((token, event.called, answered));
        }
    }
    given.sort_unstable();
    for pair in given.windows(2) {
        if pair[0].0 == pair[1].0 {
            return Err(format!("token {} was given twice", pair[0].0));
        }
    }
    // Sorted by token, so none may have been answered before an earlier one was asked for.
    let mut answered_from = u64::MAX;
    for (token, called, answered) in given.into_iter().rev() {
        if answered_from < called {
            return Err(format!("token {token} was asked for after a higher one had been given"));
        }
        answered_from = answered_from.min(answered);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(call: Call, called: u64, answered: Option<(u64, Answer)>) -> Event {
        Event { job: 1, call, called, answered }
    }

    fn done(call: Call, called: u64, at: u64, answer: Answer) -> Event {
        event(call, called, Some((at, answer)))
    }

    #[test]
    fn what_may_have_happened_is_told_from_what_may_not() {
        let submitted = done(Call::Submit, 1, 2, Answer::Done);
        let assigned = |called, at, token, number| done(Call::Assign, called, at, Answer::Assigned(token, number));
        let seen = |called, at, seen| done(Call::Read, called, at, Answer::Seen(seen));
        let fine = |events: &[Event]| assert_eq!(judge(events), Verdict::Fine, "{events:?}");
        let wrong = |events: &[Event]| assert_eq!(judge(events), Verdict::Wrong, "{events:?}");
        fine(&[submitted.clone(), assigned(3, 4, 7, 1), seen(5, 6, Seen::Delegated(7))]);
        wrong(&[submitted.clone(), seen(5, 6, Seen::Nothing)]);
        fine(&[done(Call::Submit, 1, 6, Answer::Done), seen(2, 3, Seen::Nothing), seen(4, 5, Seen::Needed)]);
        wrong(&[done(Call::Submit, 1, 6, Answer::Done), seen(2, 3, Seen::Needed), seen(4, 5, Seen::Nothing)]);
        wrong(&[submitted.clone(), assigned(3, 6, 7, 1), assigned(4, 5, 8, 2)]);
        // Somebody was not answered: the assignment may have happened, or not.
        let lost = event(Call::Assign, 3, None);
        fine(&[submitted.clone(), lost.clone(), seen(5, 6, Seen::Delegated(9)), seen(7, 8, Seen::Delegated(9))]);
        fine(&[submitted.clone(), lost.clone(), seen(5, 6, Seen::Needed), seen(7, 8, Seen::Delegated(9))]);
        wrong(&[submitted.clone(), lost.clone(), seen(5, 6, Seen::Delegated(9)), seen(7, 8, Seen::Delegated(10))]);
        wrong(&[submitted.clone(), lost.clone(), seen(5, 6, Seen::Delegated(9)), seen(7, 8, Seen::Needed)]);
        // Revoked without being told whose it was.
        let revoked = event(Call::Revoke(9), 4, None);
        fine(&[submitted, lost, revoked, seen(7, 8, Seen::Needed), assigned(9, 10, 11, 2)]);
    }

    #[test]
    fn tokens_that_fall_or_come_twice_are_found() {
        let assigned = |called, at, token| done(Call::Assign, called, at, Answer::Assigned(token, 1));
        assert!(tokens_rise(&[assigned(1, 2, 5), assigned(3, 4, 6), assigned(1, 8, 4)]).is_ok());
        assert!(tokens_rise(&[assigned(1, 2, 5), assigned(3, 4, 4)]).is_err());
        assert!(tokens_rise(&[assigned(1, 4, 5), assigned(2, 3, 5)]).is_err());
    }
}
