//! A real Apache Kafka broker, one node, on free ports: jars by Maven (`tests/kafka/pom.xml`), run with `java`.
//!
//! Where Java or Maven is missing the tests that need it say so and are passed over, but with CI set that is a failure.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::ports::free_port;

/// The pom that names the artifacts.
const POM: &str = include_str!("../kafka/pom.xml");
/// Longest wait for a broker to answer.
const READY: Duration = Duration::from_secs(90);
/// Name and password of the one user of the listeners that ask for them.
pub const USER: (&str, &str) = ("gateway", "gateway-password");

/// A broker; killed when dropped.
pub struct Broker {
    /// Its settings, its log, and `data` with those of the partitions.
    pub dir: tempfile::TempDir,
    jars: PathBuf,
    child: Option<Child>,
    /// Takes anyone, in clear.
    pub plain: SocketAddr,
    /// Asks for name and password, in clear.
    pub sasl: SocketAddr,
    /// Asks for name and password, over TLS; only when started with a certificate.
    pub tls: SocketAddr,
    /// Asks for a certificate of the client, over TLS; likewise.
    pub mutual: SocketAddr,
}

/// What the TLS listeners show, and whom they believe.
pub struct Identity {
    /// Certificate chain, PEM.
    pub cert: String,
    /// Private key, PKCS #8 PEM.
    pub key: String,
    /// The authority whose certificates clients may show, PEM.
    pub clients: String,
}

impl Broker {
    /// Starts a broker; none, with the reason on standard error, when it cannot run here.
    pub fn start(identity: Option<&Identity>) -> Option<Self> {
        let jars = match jars() {
            Ok(jars) => jars,
            Err(why) => {
                assert!(std::env::var_os("CI").is_none(), "Kafka cannot run here, and CI is set: {why}");
                eprintln!("PASSED OVER, Kafka cannot run here: {why}");
                return None;
            }
        };
        let dir = tempfile::Builder::new().prefix("bodycam-kafka-").tempdir().unwrap();
        let [plain, sasl, tls, mutual, controller] =
            [(); 5].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port().unwrap())));
        let mut broker = Self { dir, jars, child: None, plain, sasl, tls, mutual };
        broker.configure(controller, identity);
        let (user, password) = USER;
        let scram = |kind: &str| format!("{kind}=[name={user},password={password}]");
        let formatted = broker
            .java("kafka.tools.StorageTool")
            .args(["format", "--standalone", "-t", "4L6g3nShT-eMCtK--X86sw"])
            .args(["--add-scram", &scram("SCRAM-SHA-256"), "--add-scram", &scram("SCRAM-SHA-512")])
            .arg("-c")
            .arg(broker.properties())
            .output()
            .unwrap();
        assert!(
            formatted.status.success(),
            "{}{}",
            String::from_utf8_lossy(&formatted.stdout),
            String::from_utf8_lossy(&formatted.stderr)
        );
        broker.resume();
        Some(broker)
    }

    /// Address for the configuration.
    pub fn address(&self) -> String {
        self.plain.to_string()
    }

    /// Starts it again where it was stopped, and waits until it answers.
    pub fn resume(&mut self) {
        assert!(self.child.is_none(), "the broker runs already");
        let log = fs::File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let child = self
            .java("kafka.Kafka")
            .arg(self.properties())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let deadline = Instant::now() + READY;
        while !self.log().contains("Kafka Server started") || TcpStream::connect(self.plain).is_err() {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().unwrap());
            assert!(ended.is_none(), "the broker ended:\n{}", self.log());
            assert!(Instant::now() < deadline, "the broker is not ready:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Kills it (SIGKILL).
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the broker runs");
        child.kill().unwrap();
        child.wait().unwrap();
        fs::rename(self.dir.path().join("log"), self.dir.path().join("log.before")).unwrap();
    }

    /// What it has logged since it was started last.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn properties(&self) -> PathBuf {
        self.dir.path().join("server.properties")
    }

    fn java(&self, class: &str) -> Command {
        let mut java = Command::new("java");
        java.args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .args(["-Dorg.slf4j.simpleLogger.logFile=System.out"])
            .arg("-cp")
            .arg(self.jars.join("*"))
            .arg(class);
        java
    }

    fn configure(&self, controller: SocketAddr, identity: Option<&Identity>) {
        let dir = self.dir.path().display();
        let mut listeners = format!("PLAINTEXT://{},SASL://{}", self.plain, self.sasl);
        let mut text = String::new();
        let (user, password) = USER;
        let plain = format!(
            "org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}=\"{password}\";"
        );
        let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
        let mut sasl = |listener: &str| {
            text.push_str(&format!(
                "listener.name.{listener}.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
                 listener.name.{listener}.plain.sasl.jaas.config={plain}\n\
                 listener.name.{listener}.scram-sha-256.sasl.jaas.config={scram}\n\
                 listener.name.{listener}.scram-sha-512.sasl.jaas.config={scram}\n"
            ));
        };
        sasl("sasl");
        if let Some(identity) = identity {
            sasl("tls");
            listeners.push_str(&format!(",TLS://{},MUTUAL://{}", self.tls, self.mutual));
            let store = self.dir.path().join("broker.pem");
            fs::write(&store, format!("{}{}", identity.key, identity.cert)).unwrap();
            let trusted = self.dir.path().join("clients.pem");
            fs::write(&trusted, &identity.clients).unwrap();
            for listener in ["tls", "mutual"] {
                text.push_str(&format!(
                    "listener.name.{listener}.ssl.keystore.type=PEM\n\
                     listener.name.{listener}.ssl.keystore.location={}\n",
                    store.display()
                ));
            }
            text.push_str(&format!(
                "listener.name.mutual.ssl.client.auth=required\n\
                 listener.name.mutual.ssl.truststore.type=PEM\n\
                 listener.name.mutual.ssl.truststore.location={}\n",
                trusted.display()
            ));
        }
        text.push_str(&format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             listeners={listeners},CONTROLLER://{controller}\n\
             advertised.listeners={listeners}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SASL_SSL,MUTUAL:SSL,CONTROLLER:PLAINTEXT\n\
             inter.broker.listener.name=PLAINTEXT\n\
             controller.listener.names=CONTROLLER\n\
             controller.quorum.bootstrap.servers={controller}\n\
             log.dirs={dir}/data\n\
             auto.create.topics.enable=false\n\
             offsets.topic.replication.factor=1\n\
             offsets.topic.num.partitions=1\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             share.coordinator.state.topic.replication.factor=1\n\
             share.coordinator.state.topic.min.isr=1\n\
             group.initial.rebalance.delay.ms=0\n\
             log.segment.bytes=1048576\n\
             log.retention.check.interval.ms=500\n\
             log.initial.task.delay.ms=100\n\
             num.network.threads=2\n\
             num.io.threads=2\n\
             broker.session.timeout.ms=6000\n"
        ));
        fs::write(self.properties(), text).unwrap();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The directory with the jars; fetched the first time.
fn jars() -> Result<PathBuf, String> {
    let runs = |program: &str, argument: &str| {
        Command::new(program).arg(argument).output().is_ok_and(|output| output.status.success())
    };
    if !runs("java", "-version") {
        return Err("java is missing: apt-get install default-jre-headless".to_owned());
    }
    let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(base).map_err(|e| e.to_string())?;
    let digest = POM.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let dir = base.join(format!("kafka-{digest:016x}"));
    let lock = fs::File::create(base.join("kafka.lock")).map_err(|e| e.to_string())?;
    lock.lock().map_err(|e| e.to_string())?;
    if dir.join("complete").exists() {
        return Ok(dir);
    }
    if !runs("mvn", "--version") {
        return Err("mvn is missing: apt-get install maven".to_owned());
    }
    let pom = base.join("kafka-pom.xml");
    fs::write(&pom, POM).map_err(|e| e.to_string())?;
    let output = Command::new("mvn")
        .args(["-q", "-B", "-f"])
        .arg(&pom)
        .args(["dependency:copy-dependencies", "-DincludeScope=runtime"])
        .arg(format!("-DoutputDirectory={}", dir.display()))
        .output()
        .map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(format!("mvn failed:\n{}", String::from_utf8_lossy(&output.stdout)));
    }
    fs::write(dir.join("complete"), "").map_err(|e| e.to_string())?;
    Ok(dir)
}
