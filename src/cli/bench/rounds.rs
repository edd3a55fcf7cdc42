//! Fresh processes in turn: in every round each loader opens the library once, and the order of the loaders rotates.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use serde_json::Value;

use super::calls;
use super::statistics::{Median, median};
use super::worker::{ANSWER, How};
use crate::cli::children;

/// Seconds after which a worker is ended.
const TIMEOUT: u32 = 60;

/// Rounds in which a worker looks at its private pages: their number hardly differs.
const LOOKS: usize = 3;

/// Which time counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clock {
    /// The time that passes.
    Passing,
    /// The time that the process is running: less disturbed where others run too.
    Running,
}

impl Clock {
    fn key(self) -> &'static str {
        match self {
            Self::Passing => "nanoseconds",
            Self::Running => "processor_nanoseconds",
        }
    }
}

/// A loader with what it is to open.
#[derive(Clone, Debug)]
pub(super) struct Contestant {
    pub(super) name: String,
    /// The program that measures it, and what that wants to be told before the arguments of a worker.
    pub(super) program: PathBuf,
    pub(super) first: &'static [&'static str],
    /// Opened before the clock.
    pub(super) before: Vec<PathBuf>,
    /// Where it has its snapshots, if it uses some.
    pub(super) snapshots: Option<PathBuf>,
    pub(super) library: OsString,
}

impl Contestant {
    fn arguments(&self, how: Option<How>) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = self.first.iter().map(OsString::from).collect();
        arguments.extend(["--worker".into(), self.name.clone().into()]);
        arguments.extend(how.map(|how| how.flag().into()));
        arguments.extend(self.before.iter().flat_map(|path| ["--before".into(), path.into()]));
        arguments.extend(self.snapshots.iter().flat_map(|path| ["--from".into(), path.into()]));
        arguments.extend(["--".into(), self.library.clone()]);
        arguments
    }

    /// One fresh process.
    fn sample(&self, how: Option<How>) -> io::Result<Result<Value, String>> {
        let answer = children::document(&self.program, self.arguments(how), TIMEOUT.into(), ANSWER)?;
        Ok(answer.and_then(|(document, _)| match document["error"].as_str() {
            Some(reason) => Err(reason.to_owned()),
            None => Ok(document),
        }))
    }
}

/// What became of one loader in all rounds.
pub(super) struct Run {
    pub(super) name: String,
    pub(super) measured: Result<Measured, String>,
}

pub(super) struct Measured {
    /// Nanoseconds of each round, the first one left out, by the clock that counts.
    times: Vec<f64>,
    stages: Vec<(String, Vec<f64>)>,
    faults: Vec<f64>,
    private: Vec<f64>,
    /// System calls, if they can be counted here.
    pub(super) calls: Option<u64>,
}

impl Measured {
    fn of(clock: Clock, samples: &[Value], looks: &[Value], calls: Option<u64>) -> Self {
        let mut stages: Vec<(String, Vec<f64>)> = Vec::new();
        for stage in samples.iter().flat_map(|sample| sample["stages"].as_array().into_iter().flatten()) {
            let (Some(name), Some(time)) = (stage[0].as_str(), stage[1].as_f64()) else { continue };
            match stages.iter_mut().find(|(known, _)| known == name) {
                Some((_, times)) => times.push(time),
                None => stages.push((name.to_owned(), vec![time])),
            }
        }
        let all = |from: &[Value], key: &str| from.iter().filter_map(|sample| sample[key].as_f64()).collect();
        Self {
            times: all(samples, clock.key()),
            stages,
            faults: all(samples, "faults"),
            private: all(looks, "private_bytes"),
            calls,
        }
    }

    /// Nanoseconds.
    pub(super) fn time(&self) -> Option<Median> {
        median(self.times.iter().copied())
    }

    /// The time as a part of another loader's in the same round.
    pub(super) fn ratio(&self, to: &Self) -> Option<Median> {
        median(self.times.iter().zip(&to.times).map(|(time, other)| time / other))
    }

    /// Nanoseconds more than another loader's in the same round.
    pub(super) fn beyond(&self, other: &Self) -> Option<Median> {
        median(self.times.iter().zip(&other.times).map(|(time, other)| time - other))
    }

    /// The stages in order, in nanoseconds.
    pub(super) fn stages(&self) -> impl Iterator<Item = (&str, f64)> {
        self.stages.iter().filter_map(|(name, times)| Some((&**name, median(times.iter().copied())?.value)))
    }

    /// One of them.
    pub(super) fn stage(&self, name: &str) -> Option<f64> {
        self.stages().find(|(stage, _)| *stage == name).map(|(_, time)| time)
    }

    pub(super) fn faults(&self) -> Option<f64> {
        Some(median(self.faults.iter().copied())?.value)
    }

    /// Bytes that no other process can use.
    pub(super) fn private(&self) -> Option<f64> {
        Some(median(self.private.iter().copied())?.value)
    }
}

/// Lets all of them take their turns; `note` stands in the progress line.
pub(super) fn run(contestants: &[Contestant], clock: Clock, rounds: usize, note: &str) -> io::Result<Vec<Run>> {
    let progress = io::stderr().is_terminal();
    let mut samples: Vec<Result<Vec<Value>, String>> = contestants.iter().map(|_| Ok(Vec::new())).collect();
    for round in 0..=rounds {
        if progress {
            let _ = write!(io::stderr(), "\r{note}: round {round} of {rounds}\x1b[K");
        }
        for turn in 0..contestants.len() {
            let index = (round + turn) % contestants.len();
            if let Ok(so_far) = &mut samples[index] {
                match contestants[index].sample(None)? {
                    // Whatever the first round had to bring from the disk, the others find in memory.
                    Ok(_) if round == 0 => {}
                    Ok(sample) => so_far.push(sample),
                    Err(reason) => samples[index] = Err(reason),
                }
            }
        }
    }
    let mut runs = Vec::with_capacity(contestants.len());
    for (contestant, samples) in contestants.iter().zip(samples) {
        let measured = match samples {
            Err(reason) => Err(reason),
            Ok(samples) => Ok(look(contestant, clock, &samples)?),
        };
        runs.push(Run { name: contestant.name.clone(), measured });
    }
    if progress {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
    Ok(runs)
}

/// What would disturb the clock, in processes of their own: private pages and system calls.
fn look(contestant: &Contestant, clock: Clock, samples: &[Value]) -> io::Result<Measured> {
    let mut looks = Vec::with_capacity(LOOKS);
    for _ in 0..LOOKS {
        looks.extend(contestant.sample(Some(How::Look))?.ok());
    }
    let calls = calls::count(&contestant.program, &contestant.arguments(Some(How::Mark)), TIMEOUT)?;
    Ok(Measured::of(clock, samples, &looks, calls))
}
