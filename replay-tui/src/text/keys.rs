//! `keys`: the registry of commands, printed.

use std::io::Write;

use serde_json::json;

use super::{Column, Format, Outcome, print};
use crate::commands::{Command, REGISTRY};
use crate::error::ReplayError;
use crate::shown::Shown;

fn columns() -> [Column<&'static Command>; 4] {
    [
        Column::left("keys", |c| Shown::of(&c.keys.join(", ")), |c| json!(c.keys)),
        Column::left("command", |c| Shown::of(c.id), |c| json!(c.id)),
        Column::left(
            "where",
            |c| Shown::of(&contexts(c)),
            |c| json!(c.contexts.iter().map(|x| x.name()).collect::<Vec<_>>()),
        ),
        Column::left("does", |c| Shown::of(c.title), |c| json!(c.title)),
    ]
}

fn contexts(command: &Command) -> String {
    command.contexts.iter().map(|c| c.name()).collect::<Vec<_>>().join(", ")
}

/// Prints every command with its keys.
pub fn keys(format: Format, out: &mut dyn Write) -> Result<Outcome, ReplayError> {
    let commands: Vec<&'static Command> = REGISTRY.iter().collect();
    print(out, format, &columns(), &commands, commands.len())
}
