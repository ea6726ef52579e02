//! Open files: how many connections the system allows.

use rustix::process::{Resource, getrlimit, setrlimit};

use super::GatewayError;

/// Files that a connection holds: the client's socket, the target's, and one that a large message is kept in.
const PER_CONNECTION: u64 = 3;
/// Files of everything else: spool, state, lake, side connections, runtimes.
const OTHERS: u64 = 256;

/// Raises the soft limit of open files as far as `connections` need it and may be; gives how many connections
/// then fit.
pub(super) fn fit(connections: usize) -> Result<usize, GatewayError> {
    let mut limits = getrlimit(Resource::Nofile);
    let wanted = files_for(connections);
    if limits.current.is_some_and(|soft| soft < wanted) {
        let mut raised = limits.clone();
        raised.current = Some(limits.maximum.map_or(wanted, |hard| hard.min(wanted)));
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => limits = getrlimit(Resource::Nofile),
            Err(error) => {
                tracing::warn!(event = "file_limit_not_raised", error = %error, "the limit of open files stays");
            }
        }
    }
    let fitting = fitting(limits.current, connections)?;
    if fitting < connections {
        tracing::warn!(
            event = "connections_capped",
            max_connections = connections,
            served = fitting,
            files = limits.current,
            "gateway.max_connections does not fit in the limit of open files; raise the limit (ulimit -n, LimitNOFILE=)"
        );
    }
    Ok(fitting)
}

fn files_for(connections: usize) -> u64 {
    (connections as u64).saturating_mul(PER_CONNECTION).saturating_add(OTHERS)
}

fn fitting(files: Option<u64>, connections: usize) -> Result<usize, GatewayError> {
    let Some(files) = files else { return Ok(connections) };
    let fitting = usize::try_from(files.saturating_sub(OTHERS) / PER_CONNECTION).unwrap_or(usize::MAX);
    match fitting {
        0 => Err(GatewayError::Files { files, needed: files_for(1) }),
        fitting => Ok(fitting.min(connections)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_capped_by_the_files_that_may_be_open() {
        assert_eq!(fitting(None, 10_000).unwrap(), 10_000);
        assert_eq!(fitting(Some(1 << 20), 10_000).unwrap(), 10_000);
        assert_eq!(fitting(Some(1024), 10_000).unwrap(), 256);
        assert!(matches!(fitting(Some(200), 10), Err(GatewayError::Files { files: 200, needed: 259 })));
        assert!(fit(10).unwrap() == 10);
    }
}
