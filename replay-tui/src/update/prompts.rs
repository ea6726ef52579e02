//! The line at the bottom: filters, searches, places, commands.

use crossterm::event::KeyCode;

use crate::app::{Cmd, Prompt, PromptKind, Screen, State};
use crate::commands::{Args, Command, REGISTRY};
use crate::error::ReplayError;
use crate::key::Key;
use crate::matcher::Matcher;
use crate::timeline::Goto;
use crate::update::{lists, playback, sessions_matcher};

/// Longest line, in characters.
const MAX_CHARS: usize = 2000;

fn ask(state: &mut State, kind: PromptKind, text: String) -> Vec<Cmd> {
    let cursor = text.chars().count();
    state.prompt = Some(Prompt { kind, text, cursor, error: None });
    Vec::new()
}

pub fn command(state: &mut State, _: &Args) -> Vec<Cmd> {
    ask(state, PromptKind::Command, String::new())
}

pub fn filter(state: &mut State, args: &Args) -> Vec<Cmd> {
    if args.key.is_none() && !args.text.is_empty() {
        return finish(state, PromptKind::Filter, &args.text);
    }
    let text = match state.screen {
        Screen::Sessions => state.sessions.filter.clone(),
        Screen::Findings => state.findings.filter.clone(),
        Screen::Session => {
            state.session.as_ref().and_then(|s| s.filter.as_ref()).map(|f| f.text.clone()).unwrap_or_default()
        }
    };
    ask(state, PromptKind::Filter, text)
}

pub fn search(state: &mut State, args: &Args) -> Vec<Cmd> {
    match args.key.is_none() && !args.text.is_empty() {
        true => finish(state, PromptKind::Search, &args.text),
        false => ask(state, PromptKind::Search, String::new()),
    }
}

pub fn goto(state: &mut State, args: &Args) -> Vec<Cmd> {
    match args.key.is_none() && !args.text.is_empty() {
        true => finish(state, PromptKind::Goto, &args.text),
        false => ask(state, PromptKind::Goto, String::new()),
    }
}

/// A key while a line is being written.
pub(crate) fn key(state: &mut State, key: Key) -> Vec<Cmd> {
    let Some(mut prompt) = state.prompt.take() else { return Vec::new() };
    let length = prompt.text.chars().count();
    match key.code {
        KeyCode::Esc => return Vec::new(),
        KeyCode::Enter => {
            let text = prompt.text.trim().to_owned();
            return match check(state, prompt.kind, &text) {
                None => finish(state, prompt.kind, &text),
                Some(error) => {
                    prompt.error = Some(error);
                    state.prompt = Some(prompt);
                    Vec::new()
                }
            };
        }
        KeyCode::Backspace if length == 0 => return Vec::new(),
        KeyCode::Backspace if prompt.cursor > 0 => {
            prompt.cursor -= 1;
            remove(&mut prompt.text, prompt.cursor);
        }
        KeyCode::Delete => remove(&mut prompt.text, prompt.cursor),
        KeyCode::Left => prompt.cursor = prompt.cursor.saturating_sub(1),
        KeyCode::Right => prompt.cursor = (prompt.cursor + 1).min(length),
        KeyCode::Home => prompt.cursor = 0,
        KeyCode::End => prompt.cursor = length,
        KeyCode::Char('a') if key.ctrl => prompt.cursor = 0,
        KeyCode::Char('e') if key.ctrl => prompt.cursor = length,
        KeyCode::Char('u') if key.ctrl => {
            prompt.text.clear();
            prompt.cursor = 0;
        }
        KeyCode::Char('w') if key.ctrl => delete_word(&mut prompt),
        KeyCode::Tab if prompt.kind == PromptKind::Command => complete(state, &mut prompt),
        _ => {
            if let Some(c) = key.char().filter(|_| length < MAX_CHARS) {
                let at =
                    prompt.text.char_indices().nth(prompt.cursor).map_or(prompt.text.len(), |(at, _)| at);
                prompt.text.insert(at, c);
                prompt.cursor += 1;
            }
        }
    }
    prompt.error = check(state, prompt.kind, &prompt.text).filter(|_| prompt.kind == PromptKind::Filter);
    state.prompt = Some(prompt);
    Vec::new()
}

fn remove(text: &mut String, at: usize) {
    if let Some((at, _)) = text.char_indices().nth(at) {
        text.remove(at);
    }
}

fn delete_word(prompt: &mut Prompt) {
    let before: Vec<char> = prompt.text.chars().take(prompt.cursor).collect();
    let kept = before.iter().rposition(|c| !c.is_whitespace()).map_or(0, |end| {
        before.iter().take(end).rposition(|c| c.is_whitespace()).map_or(0, |blank| blank + 1)
    });
    let after: String = prompt.text.chars().skip(prompt.cursor).collect();
    prompt.text = before.iter().take(kept).collect::<String>() + &after;
    prompt.cursor = kept;
}

/// Completes the name of a command as far as only one way is open.
fn complete(state: &State, prompt: &mut Prompt) {
    let context = state.context();
    let names: Vec<&str> = REGISTRY
        .iter()
        .filter(|c| c.is_for(context) && c.id.starts_with(&prompt.text))
        .map(|c| c.id)
        .collect();
    let Some(first) = names.first() else { return };
    let shared = names.iter().fold(first.len(), |n, name| {
        first.bytes().zip(name.bytes()).take(n).take_while(|(a, b)| a == b).count()
    });
    if let Some(text) = first.get(..shared) {
        prompt.text = text.to_owned();
    }
    if names.len() == 1 && Command::named(first).is_some_and(|c| c.args.is_some()) {
        prompt.text.push(' ');
    }
    prompt.cursor = prompt.text.chars().count();
}

/// What is wrong with a line: a message, and the column.
fn check(state: &State, kind: PromptKind, text: &str) -> Option<(String, usize)> {
    let error = |result: Result<Matcher, ReplayError>| match result {
        Ok(_) => None,
        Err(ReplayError::Filter { fault, .. }) => Some((fault.message.clone(), fault.column)),
        Err(other) => Some((other.to_string(), 0)),
    };
    match kind {
        PromptKind::Filter => match state.screen {
            Screen::Sessions => error(sessions_matcher(state, text)),
            Screen::Findings => error(Matcher::new(
                text,
                &state.saved,
                state.wall_ns,
                Some((crate::text::FINDING_FIELDS, "findings")),
            )),
            Screen::Session => error(Matcher::new(text, &state.saved, state.wall_ns, None)),
        },
        PromptKind::Goto if Goto::parse(text).is_none() => {
            Some(("not a place: +12:31, 14:02:11, #812 or 50%".to_owned(), 0))
        }
        PromptKind::Command => {
            let name = text.split_whitespace().next().unwrap_or_default();
            match Command::named(name) {
                Some(command) if command.is_for(state.context()) => None,
                Some(_) => Some((format!("'{name}' cannot be done here"), 0)),
                None => {
                    Some((format!("there is no command '{}'; ? lists them", bodycam_record::shown(name)), 0))
                }
            }
        }
        PromptKind::Goto | PromptKind::Search => None,
    }
}

/// Does what a line says. Given by a command with its text, the line may still be wrong.
fn finish(state: &mut State, kind: PromptKind, text: &str) -> Vec<Cmd> {
    if let Some((message, _)) = check(state, kind, text) {
        state.complain(&message);
        return Vec::new();
    }
    match kind {
        PromptKind::Filter => lists::apply_filter(state, text),
        PromptKind::Search if text.is_empty() => Vec::new(),
        PromptKind::Search => lists::apply_search(state, text),
        PromptKind::Goto => match Goto::parse(text) {
            Some(place) => playback::go_to(state, place),
            None => Vec::new(),
        },
        PromptKind::Command => {
            let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
            match Command::named(name) {
                Some(command) => (command.run)(state, &Args { text: rest.trim().to_owned(), key: None }),
                None => Vec::new(),
            }
        }
    }
}
