//! From findings to their evidence, and from evidence to evidence.

use crate::app::{Cmd, State};
use crate::commands::Args;
use crate::event::Mark;
use crate::update::{navigate, playback};

/// Goes to the first evidence event of the chosen finding.
pub fn open(state: &mut State, _: &Args) -> Vec<Cmd> {
    let Some(finding) = state.selected_finding() else { return Vec::new() };
    let id = finding.row.id;
    walk_to(state, id, 0)
}

/// The next evidence: of the finding that one came from, else the next event that a finding names or that was
/// refused.
pub fn next(state: &mut State, _: &Args) -> Vec<Cmd> {
    match state.findings.walking {
        Some((id, at)) => walk_to(state, id, at + 1),
        None => playback::find(state, true, "evidence or refusal", |session, tick| {
            tick.mark == Mark::Deny || session.evidence.contains_key(&tick.seq)
        }),
    }
}

/// The previous one.
pub fn previous(state: &mut State, _: &Args) -> Vec<Cmd> {
    match state.findings.walking {
        Some((id, at)) if at > 0 => walk_to(state, id, at - 1),
        Some(_) => {
            state.say("this is the finding's first evidence");
            Vec::new()
        }
        None => playback::find(state, false, "evidence or refusal", |session, tick| {
            tick.mark == Mark::Deny || session.evidence.contains_key(&tick.seq)
        }),
    }
}

fn walk_to(state: &mut State, id: bodycam_record::Id16, at: usize) -> Vec<Cmd> {
    let all = state.findings.all.clone();
    let Some(finding) = all.iter().find(|f| f.row.id == id) else {
        state.findings.walking = None;
        return Vec::new();
    };
    let count = finding.evidence.len();
    let Some((session, seq)) = finding.evidence.get(at) else {
        match count {
            0 => state.say("this finding names no evidence events"),
            _ => {
                state.findings.walking = None;
                state
                    .say("that was the finding's last evidence; } now goes to any other evidence or refusal");
            }
        }
        return Vec::new();
    };
    state.findings.walking = Some((id, at));
    state.say(&format!("{}: evidence {} of {count}", finding.row.rule, at + 1));
    navigate::open_at(state, *session, Some(*seq))
}
