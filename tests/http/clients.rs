//! The clients that people use, with the usual variables and nothing else.

use std::path::Path;
use std::process::{Command, Output};

use bodycam_proxy::http::TlsConfig;
use bodycam_record::kinds::Body;

use crate::support::egress::{Egress, Seen, closed, file, opened, requests, responses};
use crate::support::stack::python;
use crate::support::web::{Certificates, files, files_tls};

fn succeeded(output: Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    out.into_owned()
}

/// As [`Egress::client`], for the test Python.
fn python_client(egress: &Egress, token: &str) -> Command {
    egress.client(python().get_program().to_str().unwrap(), token)
}

fn allowed(events: &[Seen], host: &str) {
    assert!(requests(events).iter().all(|r| r.verdict == "allow" && r.host == host));
    assert!(opened(events).iter().all(|t| t.verdict == "allow" && t.host == host));
}

#[test]
fn curl_fetches_and_uploads_in_clear_and_over_tls() {
    let egress = Egress::start(&["origin.test:*", "127.0.0.1:*"]);
    let token = egress.token("robot");
    file(&egress.dir, "www/hello.txt", b"hello over http\n");
    let certificates = Certificates::new(egress.dir.path(), &["origin.test"]);
    let root = egress.dir.path().join("www");
    let (clear, tls) = (files(&root), files_tls(&root, &certificates));
    let curl = |args: &[&str]| {
        let authority = certificates.authority.to_str().unwrap();
        egress
            .client("curl", &token)
            .args(["-sS", "--fail", "--cacert", authority])
            .args(args)
            .output()
            .unwrap()
    };
    let upload = file(&egress.dir, "upload", &[b'u'; 300_000]);
    let upload = format!("@{}", upload.display());
    for base in
        [format!("http://origin.test:{}", clear.port()), format!("https://origin.test:{}", tls.port())]
    {
        let url = format!("{base}/hello.txt");
        assert_eq!(succeeded(curl(&[&url])), "hello over http\n");
        assert_eq!(succeeded(curl(&[&url, &url])), "hello over http\nhello over http\n");
        assert!(succeeded(curl(&["-I", &url])).contains("200 OK"));
        assert_eq!(succeeded(curl(&["--data-binary", &upload, &base])).len(), 300_000);
        assert_eq!(
            succeeded(curl(&["-H", "Expect: 100-continue", "--data-binary", &upload, &base])).len(),
            300_000
        );
    }
    let refused = curl(&["https://unlisted.example/"]);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && error.contains("403"), "{error}");

    let events = egress.closed(11);
    let tunnels = closed(&events);
    assert!(tunnels.iter().all(|t| t.tls && t.sni.as_deref() == Some("origin.test")));
    assert!(tunnels.iter().all(|t| t.alpn.contains(&"http/1.1".to_owned())));
    assert!(tunnels.iter().any(|t| t.bytes_out > 300_000 && t.bytes_in > 300_000));
    let uploads = responses(&events).into_iter().filter(|r| r.bytes_out == 300_000).count();
    assert_eq!(uploads, 2);
    assert_eq!(
        opened(&events).iter().filter(|o| o.refusal.as_deref() == Some("host-not-allowed")).count(),
        1
    );
}

#[test]
fn curl_and_requests_reach_the_proxy_itself_over_tls() {
    let egress = Egress::custom(&["origin.test:*", "127.0.0.1:*"], |c| {
        let certificates = Certificates::new(&c.dir, &["localhost", "origin.test"]);
        c.http.tls = Some(TlsConfig { cert: certificates.cert, key: certificates.key });
        c.peer = Some([192, 0, 2, 7].into());
    });
    let token = egress.token("robot");
    file(&egress.dir, "www/hello.txt", b"hello");
    let authority = egress.dir.path().join("authority.pem");
    let other = Certificates::new(&egress.dir.path().join("www"), &["origin.test"]);
    let root = egress.dir.path().join("www");
    let (clear, tls) = (files(&root), files_tls(&root, &other));
    let proxy = format!("https://robot:{token}@localhost:{}", egress.address.port());
    for url in [
        format!("http://origin.test:{}/hello.txt", clear.port()),
        format!("https://origin.test:{}/hello.txt", tls.port()),
    ] {
        let mut curl = egress.client("curl", &token);
        curl.args(["-sS", "--fail", "--proxy", &proxy, "--proxy-cacert"]).arg(&authority);
        let output = curl.arg("--cacert").arg(&other.authority).arg(&url).output().unwrap();
        assert_eq!(succeeded(output), "hello");
    }
    let script = format!(
        "import requests; print(requests.get('http://origin.test:{}/hello.txt', proxies={{'http': '{proxy}'}}, verify='{}').text)",
        clear.port(),
        authority.display(),
    );
    assert_eq!(succeeded(python_client(&egress, &token).args(["-c", &script]).output().unwrap()), "hello\n");
    let events = egress.closed(3);
    let encrypted = |e: &&Seen| matches!(&e.body, Body::SessionOpened(o) if o.client_tls);
    assert_eq!(events.iter().filter(encrypted).count(), 3);
}

#[test]
fn git_clones_after_a_407() {
    let egress = Egress::start(&["git.test:*", "127.0.0.1:*"]);
    let token = egress.token("robot");
    let work = egress.dir.path().join("work");
    let git = |args: &[&str]| {
        let mut command = egress.client("git", &token);
        let name = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"];
        command.args(name).args(args).output().unwrap()
    };
    file(&egress.dir, "work/README", b"cloned through the gateway\n");
    succeeded(git(&["init", "-q", work.to_str().unwrap()]));
    succeeded(git(&["-C", work.to_str().unwrap(), "add", "README"]));
    succeeded(git(&["-C", work.to_str().unwrap(), "commit", "-q", "-m", "first"]));
    let bare = egress.dir.path().join("www/repo.git");
    succeeded(git(&["clone", "-q", "--bare", work.to_str().unwrap(), bare.to_str().unwrap()]));
    succeeded(git(&["-C", bare.to_str().unwrap(), "update-server-info"]));
    let certificates = Certificates::new(egress.dir.path(), &["git.test"]);
    let root = egress.dir.path().join("www");
    let (clear, tls) = (files(&root), files_tls(&root, &certificates));
    for (name, base) in [
        ("one", format!("http://git.test:{}", clear.port())),
        ("two", format!("https://git.test:{}", tls.port())),
    ] {
        let to = egress.dir.path().join(name);
        let mut clone = egress.client("git", &token);
        clone.args(["clone", "-q", &format!("{base}/repo.git")]).arg(&to);
        succeeded(clone.env("GIT_SSL_CAINFO", &certificates.authority).output().unwrap());
        assert_eq!(std::fs::read_to_string(to.join("README")).unwrap(), "cloned through the gateway\n");
    }
    let events = egress.closed(2);
    allowed(&events, "git.test");
    assert!(requests(&events).len() > 2 && !opened(&events).is_empty());
}

#[test]
fn pip_downloads_from_an_index() {
    let egress = Egress::start(&["packages.test:*", "127.0.0.1:*"]);
    let token = egress.token("robot");
    let wheel = wheel(egress.dir.path());
    let name = wheel.file_name().unwrap().to_str().unwrap();
    let content = std::fs::read(&wheel).unwrap();
    file(&egress.dir, &format!("www/simple/through-bodycam/{name}"), &content);
    let certificates = Certificates::new(egress.dir.path(), &["packages.test"]);
    let root = egress.dir.path().join("www");
    let (clear, tls) = (files(&root), files_tls(&root, &certificates));
    for (to, base) in [
        ("clear", format!("http://packages.test:{}", clear.port())),
        ("tls", format!("https://packages.test:{}", tls.port())),
    ] {
        let to = egress.dir.path().join(to);
        let mut pip = python_client(&egress, &token);
        pip.args([
            "-m",
            "pip",
            "--isolated",
            "--no-cache-dir",
            "--disable-pip-version-check",
            "download",
            "--no-deps",
        ]);
        pip.args(["--trusted-host", "packages.test", "--cert"]).arg(&certificates.authority);
        pip.args(["--index-url", &format!("{base}/simple/"), "-d"]).arg(&to).arg("through-bodycam");
        succeeded(pip.output().unwrap());
        assert_eq!(std::fs::read(to.join(name)).unwrap(), content);
    }
    let events = egress.closed(2);
    allowed(&events, "packages.test");
    assert!(requests(&events).len() >= 2 && !opened(&events).is_empty());
}

#[test]
fn python_requests_keeps_connections_and_shows_refusals() {
    let egress = Egress::start(&["origin.test:*", "127.0.0.1:*"]);
    let token = egress.token("robot");
    file(&egress.dir, "www/hello.txt", b"hello");
    let certificates = Certificates::new(egress.dir.path(), &["origin.test"]);
    let root = egress.dir.path().join("www");
    let (clear, tls) = (files(&root), files_tls(&root, &certificates));
    let script = format!(
        r#"
import requests
with requests.Session() as s:
    for base in ("http://origin.test:{clear}", "https://origin.test:{tls}"):
        assert s.get(base + "/hello.txt").text == "hello"
        assert s.post(base, data=b"x" * 100000).content == b"x" * 100000
        assert s.get(base + "/missing").status_code == 404
    refused = s.get("http://unlisted.example/")
    assert refused.status_code == 403 and refused.json()["reason"] == "host-not-allowed", refused.text
    try:
        s.get("https://unlisted.example/")
        raise SystemExit("not refused")
    except requests.exceptions.ProxyError as e:
        assert "403" in str(e) and "host-not-allowed" in str(e), e
print("done")
"#,
        clear = clear.port(),
        tls = tls.port()
    );
    let mut client = python_client(&egress, &token);
    client.env("REQUESTS_CA_BUNDLE", &certificates.authority).args(["-c", &script]);
    assert_eq!(succeeded(client.output().unwrap()).trim(), "done");
    let events = egress.closed(2);
    assert!(responses(&events).iter().filter(|r| r.outcome == "complete").count() >= 3);
}

/// A wheel with nothing in it but its metadata.
fn wheel(dir: &Path) -> std::path::PathBuf {
    let script = r#"
import sys, zipfile
path = sys.argv[1] + "/through_bodycam-1.0-py3-none-any.whl"
info = "through_bodycam-1.0.dist-info/"
with zipfile.ZipFile(path, "w") as z:
    z.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: through-bodycam\nVersion: 1.0\n")
    z.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    z.writestr(info + "RECORD", "")
print(path)
"#;
    let output = python().args(["-c", script]).arg(dir).output().unwrap();
    succeeded(output).trim().into()
}
