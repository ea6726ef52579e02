//! Open files: how many connections the system allows.

use rlimit::{Resource, getrlimit, setrlimit};

use super::GatewayError;

/// Files that a connection holds: the client's socket, the target's, and one that a large message is kept in.
const PER_CONNECTION: u64 = 3;
/// Files of everything else: spool, state, lake, side connections, runtimes.
const OTHERS: u64 = 256;

/// Raises the soft limit of open files as far as `connections` need it and may be; gives how many connections
/// then fit.
pub(super) fn fit(connections: usize) -> Result<usize, GatewayError> {
    let limits = || {
        let source = |source| GatewayError::Start { what: "counting open files", source };
        getrlimit(Resource::NOFILE).map_err(source)
    };
    let (mut files, most) = limits()?;
    let wanted = files_for(connections);
    if files < wanted {
        match setrlimit(Resource::NOFILE, wanted.min(most), most) {
            Ok(()) => files = limits()?.0,
            Err(error) => {
                tracing::warn!(event = "file_limit_not_raised", error = %error, "the limit of open files stays");
            }
        }
    }
    let fitting = fitting(files, connections)?;
    if fitting < connections {
        tracing::info!(
            event = "connections_capped",
            max_connections = connections,
            served = fitting,
            files,
            "gateway.max_connections does not fit in the limit of open files; raise the limit (ulimit -n, LimitNOFILE=)"
        );
    }
    Ok(fitting)
}

fn files_for(connections: usize) -> u64 {
    (connections as u64).saturating_mul(PER_CONNECTION).saturating_add(OTHERS)
}

fn fitting(files: u64, connections: usize) -> Result<usize, GatewayError> {
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
        assert_eq!(fitting(u64::MAX, 10_000).unwrap(), 10_000);
        assert_eq!(fitting(1 << 20, 10_000).unwrap(), 10_000);
        assert_eq!(fitting(1024, 10_000).unwrap(), 256);
        assert!(matches!(fitting(200, 10), Err(GatewayError::Files { files: 200, needed: 259 })));
        assert!(fit(10).unwrap() == 10);
    }
}
