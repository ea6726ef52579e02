//! Busy clients that keep a log of what they saw acknowledged.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::support::stack::Stack;

const CLIENTS: u64 = 8;

/// Clients at work.
pub struct Clients {
    runtime: tokio::runtime::Runtime,
    shared: Arc<Shared>,
    tasks: Vec<tokio::task::JoinHandle<Vec<i64>>>,
}

/// What clients are told, and what they tell while they run.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    acknowledged: AtomicU64,
}

impl Clients {
    /// Makes the table of nonces, and clients that insert into it, each with a pause after every statement.
    pub fn start(stack: &Stack, pause: Duration) -> Self {
        stack.cluster.run("app", "CREATE TABLE nonces (nonce bigint); GRANT ALL ON nonces TO app").unwrap();
        let token = stack.token("robot");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let shared = Arc::new(Shared::default());
        let tasks = (0..CLIENTS)
            .map(|n| {
                let (token, shared) = (token.clone(), Arc::clone(&shared));
                runtime.spawn(client(n, stack.postgres.port(), token, pause, shared))
            })
            .collect();
        Self { runtime, shared, tasks }
    }

    /// How many statements were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::SeqCst)
    }

    /// Waits until so many statements were acknowledged.
    pub fn reach(&self, stack: &Stack, statements: u64) {
        stack.wait_for("statements", Duration::from_secs(60), || self.acknowledged() >= statements);
    }

    /// Waits until so many statements more were acknowledged.
    pub fn go_on(&self, stack: &Stack, statements: u64) {
        self.reach(stack, self.acknowledged() + statements);
    }

    /// Stops them: what they saw acknowledged.
    pub fn stop(self) -> BTreeSet<i64> {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.runtime.block_on(async {
            let mut all = BTreeSet::new();
            for task in self.tasks {
                all.extend(task.await.unwrap());
            }
            all
        })
    }
}

/// Inserts nonces until told to stop, with a pause after each, reconnecting whenever the gateway is gone; gives those
/// acknowledged.
async fn client(client: u64, port: u16, token: String, pause: Duration, shared: Arc<Shared>) -> Vec<i64> {
    let (mut acknowledged, mut n) = (Vec::new(), 0);
    while !shared.stop.load(Ordering::SeqCst) {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(port).user("robot").password(&token).dbname("app");
        config.connect_timeout(Duration::from_secs(2));
        let Ok((session, connection)) = config.connect(tokio_postgres::NoTls).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let driver = tokio::spawn(connection);
        while !shared.stop.load(Ordering::SeqCst) {
            n += 1;
            let nonce = i64::try_from(client * 1_000_000_000 + n).unwrap();
            let sent = session.batch_execute(&format!("INSERT INTO nonces VALUES ({nonce})")).await;
            match sent {
                Ok(()) => {
                    acknowledged.push(nonce);
                    shared.acknowledged.fetch_add(1, Ordering::SeqCst);
                }
                Err(_) => break,
            }
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
        driver.abort();
    }
    acknowledged
}
