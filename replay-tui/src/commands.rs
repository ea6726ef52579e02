//! The registry of commands: keys, palette, command line, help and documentation are all printed from it.

use std::collections::BTreeMap;

use crate::app::{Cmd, State};
use crate::error::ReplayError;
use crate::key::Key;
use crate::update::{copy, evidence, lists, navigate, overlays, playback, prompts};

/// Where a command can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Context {
    /// Everywhere.
    Global,
    /// The list of sessions.
    Sessions,
    /// A session, whichever pane has the focus.
    Session,
    /// The details of an event.
    Detail,
    /// The list of findings.
    Findings,
}

impl Context {
    /// Its name in help and documentation.
    pub fn name(self) -> &'static str {
        match self {
            Context::Global => "everywhere",
            Context::Sessions => "sessions",
            Context::Session => "session",
            Context::Detail => "detail",
            Context::Findings => "findings",
        }
    }
}

/// What a command is given: the rest of the command line, and the key that was pressed.
#[derive(Debug, Clone, Default)]
pub struct Args {
    /// Text after the command's name; empty when it was given by key.
    pub text: String,
    /// The last key of the sequence that gave it.
    pub key: Option<Key>,
}

/// A command.
pub struct Command {
    /// Its name, for the command line and the configuration.
    pub id: &'static str,
    /// What it does.
    pub title: &'static str,
    /// The keys that give it.
    pub keys: &'static [&'static str],
    /// Where it can be given.
    pub contexts: &'static [Context],
    /// What it takes on the command line, if anything.
    pub args: Option<&'static str>,
    /// Does it.
    pub run: fn(&mut State, &Args) -> Vec<Cmd>,
}

use Context::{Detail, Findings, Global, Session, Sessions};

const LISTS: &[Context] = &[Sessions, Session, Detail, Findings];

macro_rules! commands {
    ($($id:literal $title:literal [$($key:literal),*] $contexts:expr, $args:expr, $run:expr;)*) => {
        /// Every command.
        pub const REGISTRY: &[Command] = &[$(Command {
            id: $id, title: $title, keys: &[$($key),*], contexts: $contexts, args: $args, run: $run,
        }),*];
    };
}

commands! {
    "help" "what can be done here" ["?", "f1"] &[Global], None, overlays::help;
    "command" "give a command by name" [":"] &[Global], None, prompts::command;
    "palette" "find a command by any part of its name" ["ctrl-p"] &[Global], None, overlays::palette;
    "back" "go back; from the first screen, leave" ["q"] &[Global], None, navigate::back;
    "quit" "leave" ["Q", "Z Z"] &[Global], None, navigate::quit;
    "cancel" "close, cancel, clear the search" ["esc"] &[Global], None, navigate::cancel;
    "interrupt" "cancel what is running; twice, leave" ["ctrl-c"] &[Global], None, navigate::interrupt;
    "suspend" "back to the shell; `fg` goes on" ["ctrl-z"] &[Global], None, navigate::suspend;
    "redraw" "draw everything anew" ["ctrl-l"] &[Global], None, navigate::redraw;
    "sessions" "the list of sessions" ["g s"] &[Global], None, navigate::sessions;
    "findings" "the list of findings" ["g f"] &[Global], None, navigate::findings;
    "integrity" "what of this session's chain was verified" ["g v"] &[Global], None, overlays::integrity;
    "open" "open a session by id or link" [] &[Global], Some("ID[#SEQ]"), navigate::open_by_id;
    "time" "times as offsets or in UTC" ["T"] &[Global], None, navigate::toggle_time;

    "down" "one down" ["j", "down"] LISTS, None, lists::down;
    "up" "one up" ["k", "up"] LISTS, None, lists::up;
    "half-down" "half a page down" ["ctrl-d"] LISTS, None, lists::half_down;
    "half-up" "half a page up" ["ctrl-u"] LISTS, None, lists::half_up;
    "page-down" "a page down" ["ctrl-f", "pagedown"] LISTS, None, lists::page_down;
    "page-up" "a page up" ["ctrl-b", "pageup"] LISTS, None, lists::page_up;
    "top" "to the first" ["g g", "home"] LISTS, None, lists::top;
    "bottom" "to the last" ["G", "end"] LISTS, None, lists::bottom;
    "filter" "show only what passes a filter" ["f"] LISTS, Some("FILTER"), prompts::filter;
    "search" "find text" ["/"] LISTS, Some("TEXT"), prompts::search;
    "next-hit" "next hit of the search" ["n"] LISTS, None, lists::next_hit;
    "previous-hit" "previous hit of the search" ["N"] LISTS, None, lists::previous_hit;

    "copy-line" "copy this line" ["y y"] LISTS, None, copy::line;
    "copy-link" "copy a link to this place" ["y p"] LISTS, None, copy::link;
    "copy-statement" "copy the statement, binds in place" ["y s"] &[Session, Detail], None, copy::statement;
    "copy-json" "copy the event as JSON" ["y j"] &[Session, Detail], None, copy::json;

    "open-session" "open the session" ["enter"] &[Sessions], None, navigate::open_selected;
    "sort" "sort by the next column" ["s"] &[Sessions], None, lists::sort;
    "reverse" "reverse the order" ["S"] &[Sessions], None, lists::reverse;
    "only-principal" "add this principal to the filter" ["+"] &[Sessions], None, lists::only_principal;
    "without-principal" "take this principal out with the filter" ["!"] &[Sessions], None, lists::without_principal;

"sort-findings" "highest severity first, or newest first" ["s"] &[Findings], None, lists::sort_findings;
    "open-evidence" "go to the first evidence event" ["enter"] &[Findings], None, evidence::open;

    "play" "play or pause" ["space"] &[Session, Detail], None, playback::play;
    "next-event" "next event" ["."] &[Session, Detail], None, playback::next_event;
    "previous-event" "previous event" [","] &[Session, Detail], None, playback::previous_event;
    "next-step" "next statement or request" ["J"] &[Session, Detail], None, playback::next_step;
    "previous-step" "previous statement or request" ["K"] &[Session, Detail], None, playback::previous_step;
    "back-5s" "5 seconds back" ["left"] &[Session], None, playback::back_5s;
    "forward-5s" "5 seconds forward" ["right"] &[Session], None, playback::forward_5s;
    "back-30s" "30 seconds back" ["shift-left"] &[Session, Detail], None, playback::back_30s;
    "forward-30s" "30 seconds forward" ["shift-right"] &[Session, Detail], None, playback::forward_30s;
    "back-tenth" "a tenth of the session back" ["ctrl-left"] &[Session, Detail], None, playback::back_tenth;
    "forward-tenth" "a tenth of the session forward" ["ctrl-right"] &[Session, Detail], None, playback::forward_tenth;
    "tenth" "to this tenth of the session" ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
        &[Session, Detail], None, playback::tenth;
    "goto" "go to a place: +12:31, 14:02:11, #812, 50%" ["t"] &[Session, Detail], Some("PLACE"), prompts::goto;
    "live-edge" "to the newest event, and follow" ["L"] &[Session, Detail], None, playback::live_edge;
    "follow" "follow what is added" ["F"] &[Session, Detail], None, playback::follow;
    "faster" "twice as fast" ["+"] &[Session, Detail], None, playback::faster;
    "slower" "half as fast" ["-"] &[Session, Detail], None, playback::slower;
    "real-time" "as fast as it was" ["="] &[Session, Detail], None, playback::real_time;
    "idle-skip" "cut idle time, or not" ["i"] &[Session, Detail], None, playback::idle_skip;
    "next-evidence" "next evidence or refusal" ["}"] &[Session, Detail], None, evidence::next;
    "previous-evidence" "previous evidence or refusal" ["{"] &[Session, Detail], None, evidence::previous;
    "next-error" "next error" ["e"] &[Session, Detail], None, playback::next_error;
    "previous-error" "previous error" ["E"] &[Session, Detail], None, playback::previous_error;
    "next-bulk" "next large result (1,000 rows or 1 MiB)" ["b"] &[Session, Detail], None, playback::next_bulk;
    "previous-bulk" "previous large result" ["B"] &[Session, Detail], None, playback::previous_bulk;
    "mark" "mark this event, or take its mark away" ["m"] &[Session, Detail], None, playback::mark;
    "next-mark" "next marked event" ["]"] &[Session, Detail], None, playback::next_mark;
    "previous-mark" "previous marked event" ["["] &[Session, Detail], None, playback::previous_mark;

    "pane" "to the other pane" ["tab", "backtab"] &[Session, Detail], None, navigate::other_pane;
    "detail" "into the details" ["enter"] &[Session], None, navigate::into_detail;
    "maximise" "this pane alone, or both" ["\\"] &[Session, Detail], None, navigate::maximise;
    "raw" "laid out or as recorded" ["p"] &[Session, Detail], None, navigate::raw;
    "hex" "as bytes" ["x"] &[Session, Detail], None, navigate::hex;
    "column-left" "one column to the left" ["h", "left"] &[Detail], None, lists::column_left;
    "column-right" "one column to the right" ["l", "right"] &[Detail], None, lists::column_right;
}

impl Command {
    /// The command of this name.
    pub fn named(id: &str) -> Option<&'static Command> {
        REGISTRY.iter().find(|c| c.id == id)
    }

    /// Whether it can be given in a context.
    pub fn is_for(&self, context: Context) -> bool {
        self.contexts.iter().any(|c| *c == context || *c == Context::Global)
    }
}

/// What a sequence of keys means.
#[derive(Clone, Copy)]
pub enum Meaning {
    /// A command.
    Command(&'static Command),
    /// The beginning of a longer sequence.
    Prefix,
    /// Nothing.
    Nothing,
}

/// The keys in force: the registry's, with the configuration's in their place.
#[derive(Clone)]
pub struct Keymap {
    bindings: Vec<(Vec<Key>, &'static Command)>,
    overridden: BTreeMap<&'static str, Vec<String>>,
}

impl Default for Keymap {
    fn default() -> Self {
        let of = |c: &'static Command| c.keys.iter().filter_map(move |k| Some((Key::sequence(k)?, c)));
        Self { bindings: REGISTRY.iter().flat_map(of).collect(), overridden: BTreeMap::new() }
    }
}

impl Keymap {
    /// The registry's keys with `overrides` by command id. An unknown command, a key that is none, and a key
    /// that would mean two things in one context are refused.
    pub fn new(overrides: &BTreeMap<String, Vec<String>>) -> Result<Self, ReplayError> {
        let mut keymap = Self::default();
        for (id, keys) in overrides {
            let shown = |text: &str| bodycam_record::shown::shown_limit(text, 80);
            let Some(command) = Command::named(id) else {
                let message = format!("keys: there is no command '{}'; `bodycam keys` lists them", shown(id));
                return Err(ReplayError::Config(message));
            };
            keymap.bindings.retain(|(_, c)| c.id != command.id);
            for key in keys {
                let Some(sequence) = Key::sequence(key) else {
                    return Err(ReplayError::Config(format!(
                        "keys.{id}: '{}' is not a key: one character, or like ctrl-d, shift-left, pagedown, g s",
                        shown(key)
                    )));
                };
                keymap.bindings.push((sequence, command));
            }
            keymap.overridden.insert(command.id, keys.clone());
        }
        match keymap.clash() {
            None => Ok(keymap),
            Some((a, b)) => {
                Err(ReplayError::Config(format!("keys: '{}' and '{}' have the same key", a.id, b.id)))
            }
        }
    }

    /// What `keys` mean in `context`.
    pub fn meaning(&self, context: Context, keys: &[Key]) -> Meaning {
        let here = || self.bindings.iter().filter(|(_, c)| c.is_for(context));
        if let Some((_, command)) = here().find(|(sequence, _)| sequence == keys) {
            return Meaning::Command(command);
        }
        match here().any(|(sequence, _)| sequence.starts_with(keys)) {
            true => Meaning::Prefix,
            false => Meaning::Nothing,
        }
    }

    /// The keys of a command, for people.
    pub fn keys_of(&self, command: &Command) -> String {
        match self.overridden.get(command.id) {
            Some(keys) => keys.join(", "),
            None => command.keys.join(", "),
        }
    }

    /// Two commands that the same keys would give in one context, one of them perhaps by a prefix.
    fn clash(&self) -> Option<(&'static Command, &'static Command)> {
        for context in [Sessions, Session, Detail, Findings] {
            let here: Vec<_> = self.bindings.iter().filter(|(_, c)| c.is_for(context)).collect();
            for (i, (a, first)) in here.iter().enumerate() {
                for (b, second) in here.iter().skip(i + 1) {
                    if a.starts_with(b) || b.starts_with(a) {
                        return Some((first, second));
                    }
                }
            }
        }
        None
    }
}

/// The page of the documentation that lists every command.
pub fn docs_table() -> String {
    let mut out = String::from("| keys | command | where | does |\n|---|---|---|---|\n");
    for command in REGISTRY {
        let keys: Vec<String> = command.keys.iter().map(|k| format!("`{}`", k.replace('|', "\\|"))).collect();
        let contexts: Vec<_> = command.contexts.iter().map(|c| c.name()).collect();
        let args = command.args.map(|a| format!(" {a}")).unwrap_or_default();
        out.push_str(&format!(
            "| {} | `:{}{args}` | {} | {} |\n",
            keys.join(" "),
            command.id,
            contexts.join(", "),
            command.title
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_key_is_dead_or_shadowed_and_no_command_stands_twice() {
        let mut ids = HashSet::new();
        for command in REGISTRY {
            assert!(ids.insert(command.id), "{} stands twice", command.id);
            assert!(!command.contexts.is_empty());
            assert!(!command.keys.is_empty() || command.args.is_some(), "{} cannot be given", command.id);
            for key in command.keys {
                let sequence = Key::sequence(key).unwrap_or_else(|| panic!("{key} is no key"));
                let written: Vec<_> = sequence.iter().map(Key::to_string).collect();
                assert_eq!(&written.join(" "), key, "written as it is read");
                let contexts: &[Context] = match command.contexts {
                    [Context::Global] => &[Sessions, Session, Detail, Findings],
                    other => other,
                };
                for context in contexts {
                    let Meaning::Command(found) = Keymap::default().meaning(*context, &sequence) else {
                        panic!("{key} gives nothing in {}", context.name());
                    };
                    assert_eq!(found.id, command.id, "{key} in {}", context.name());
                }
            }
        }
        assert!(Keymap::default().clash().is_none_or(|(a, b)| panic!("{} and {} clash", a.id, b.id)));
    }

    #[test]
    fn configured_keys_replace_the_built_in_ones_and_mistakes_are_refused() {
        let keymap = |id: &str, keys: &[&str]| {
            Keymap::new(&BTreeMap::from([(id.to_owned(), keys.iter().map(|k| (*k).to_owned()).collect())]))
        };
        let z = [Key::parse("z").unwrap()];
        let custom = keymap("play", &["z"]).unwrap();
        assert!(matches!(custom.meaning(Session, &z), Meaning::Command(c) if c.id == "play"));
        assert!(matches!(custom.meaning(Session, &[Key::parse("space").unwrap()]), Meaning::Nothing));
        assert!(matches!(custom.meaning(Sessions, &z), Meaning::Nothing));
        for (id, keys, says) in [
            ("play", &["j"][..], "same key"),
            ("play", &["g"], "same key"),
            ("fly", &["z"], "no command 'fly'"),
            ("play", &["hyper-z"], "is not a key"),
        ] {
            let message = keymap(id, keys).err().unwrap().to_string();
            assert!(message.contains(says), "{message}");
        }
    }
}
