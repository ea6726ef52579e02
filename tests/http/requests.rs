//! Requests in absolute form, against origins that log every byte.

use std::io::{Read, Write};
use std::time::Duration;

use bodycam_record::ContentKind;
use bodycam_record::kinds::Body;

use crate::support::egress::{
    Egress, PATIENCE, close_reasons, decisions, origin, read_to_end, requests, responses, scripted,
};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello";

#[test]
fn a_request_is_recorded_judged_and_sent_on_without_the_credential() {
    let (origin, got) = scripted(OK);
    let egress = Egress::start(&["origin.test:*", "127.0.0.1:*"]);
    let token = egress.token("robot");
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let answer = egress.exchange(
        format!(
            "POST http://origin.test:{port}/a?q=1&access_token=hush HTTP/1.1\r\nHost: origin.test:{port}\r\n{}\
             Content-Type: application/json; charset=utf-8\r\nContent-Length: 7\r\nAuthorization: Bearer secret\r\nX-Note: hi there\r\n\
             traceparent: 00-{trace}-00f067aa0ba902b7-01\r\nConnection: close\r\n\r\n{{\"a\":1}}",
            Egress::credential(&token),
            port = origin.port(),
        )
        .as_bytes(),
    );
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nhello"), "{answer}");
    let got = String::from_utf8(got.recv_timeout(PATIENCE).unwrap()).unwrap();
    assert!(got.starts_with("POST /a?q=1&access_token=hush HTTP/1.1\r\nHost: origin.test:"), "{got}");
    assert!(
        got.contains("\r\nAuthorization: Bearer secret\r\n") && got.ends_with("\r\n\r\n{\"a\":1}"),
        "{got}"
    );
    assert!(!got.to_lowercase().contains("proxy-") && !got.contains(&token), "{got}");

    let events = egress.closed(1);
    let kinds: Vec<_> = events.iter().map(|e| e.body.table().name).collect();
    assert_eq!(kinds, ["session.opened", "http.request", "http.response", "session.closed"]);
    let Body::SessionOpened(opened) = &events[0].body else { panic!("{kinds:?}") };
    assert_eq!((opened.protocol.as_str(), opened.auth_method.as_str()), ("http", "proxy-basic"));
    assert_eq!((opened.principal_kind.as_str(), opened.credential_addresses), ("agent", 1));
    let request = requests(&events)[0];
    assert_eq!((request.verdict.as_str(), request.method.as_str()), ("allow", "POST"));
    assert_eq!((request.host.as_str(), request.port), ("origin.test", i64::from(origin.port())));
    assert_eq!(request.address.as_deref(), Some("127.0.0.1"));
    assert_eq!(request.address_class.as_deref(), Some("loopback"));
    assert_eq!(request.media_type.as_deref(), Some("application/json"));
    assert_eq!(request.content_length, Some(7));
    assert!(request.correlation.is_some() && request.correlation == opened.correlation);
    let response = responses(&events)[0];
    assert_eq!((response.status, response.outcome.as_str()), (Some(200), "complete"));
    assert_eq!((response.bytes_out, response.bytes_in), (7, 5));
    assert!(response.request_digest.is_some() && response.response_digest.is_some());
    assert_ne!(response.request_digest, response.response_digest);
    assert_eq!(events[2].parent, Some(1));

    let url = events[1].text(ContentKind::Url);
    assert_eq!(url, format!("http://origin.test:{}/a?q=1&access_token=[removed, 4 bytes]", origin.port()));
    assert_eq!(events[1].text(ContentKind::Correlation), trace);
    let names: Vec<_> = events[1].pairs(ContentKind::RequestHead).into_iter().map(|(n, _)| n).collect();
    assert_eq!(
        names,
        ["host", "content-type", "content-length", "x-note", "traceparent", "connection"],
        "credentials are not content"
    );
    for event in &events {
        for bytes in event.content.values() {
            let text = String::from_utf8_lossy(bytes);
            assert!(!text.contains(&token) && !text.contains("secret"), "a credential in {}", event.seq);
        }
    }
}

#[test]
fn a_connection_carries_one_request_after_the_other() {
    let (origin, _got) = scripted(OK);
    let egress = Egress::start(&["127.0.0.1:*"]);
    let credential = Egress::credential(&egress.token("robot"));
    let one = format!("GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\n{credential}\r\n");
    let last = one.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    let answer = egress.exchange(format!("{one}{one}{last}").as_bytes());
    assert_eq!(answer.matches("HTTP/1.1 200 OK\r\n").count(), 3, "{answer}");
    assert_eq!(answer.matches("Connection: keep-alive").count(), 2);
    let events = egress.closed(1);
    assert_eq!(requests(&events).iter().map(|r| r.request_no).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(close_reasons(&events), ["client"]);
}

#[test]
fn bodies_pass_in_every_framing_and_their_digests_do_not_depend_on_it() {
    let (length, _a) = scripted(OK);
    let (chunked, _b) = scripted(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nX-Trailer: 1\r\n\r\n",
    );
    let (close, _c) = scripted(b"HTTP/1.0 200 OK\r\n\r\nhello");
    let egress = Egress::start(&["127.0.0.1:*"]);
    let credential = Egress::credential(&egress.token("robot"));
    let ask = |origin, body: &str| {
        format!("POST http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\n{credential}{body}")
    };
    let three = [
        ask(length, "Content-Length: 5\r\n\r\nworld"),
        ask(chunked, "Transfer-Encoding: chunked\r\n\r\n5\r\nworld\r\n0\r\n\r\n"),
        ask(close, "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\nw\r\n4\r\norld\r\n0\r\n\r\n"),
    ];
    let answer = egress.exchange(three.concat().as_bytes());
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3, "{answer}");
    assert_eq!(answer.matches("\r\n\r\nhello").count(), 1);
    assert_eq!(
        answer.matches("\r\n\r\n5\r\nhello\r\n0\r\n\r\n").count(),
        2,
        "re-chunked, without extension and trailer"
    );
    let events = egress.closed(1);
    let left_out: Vec<_> = events.iter().flat_map(|e| e.pairs(ContentKind::Detail)).collect();
    let pair = |what: &str| ("left_out".to_owned(), what.to_owned());
    assert_eq!(left_out, [pair("chunk-extensions"), pair("trailers")], "it is recorded that they were there");
    let responses = responses(&events);
    assert!(responses.iter().all(|r| (r.bytes_in, r.bytes_out, r.outcome.as_str()) == (5, 5, "complete")));
    let first = responses[0];
    assert!(first.response_digest.is_some() && first.request_digest.is_some());
    assert!(responses.iter().all(|r| r.response_digest == first.response_digest));
    assert!(responses.iter().all(|r| r.request_digest == first.request_digest));
}

#[test]
fn head_204_and_304_end_with_their_heads() {
    let egress = Egress::start(&["127.0.0.1:*"]);
    let credential = Egress::credential(&egress.token("robot"));
    for (method, response, want) in [
        ("HEAD", &b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"[..], "Content-Length: 100\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n", "204 No Content\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\nETag: \"x\"\r\n\r\n", "ETag: \"x\"\r\n"),
    ] {
        let (origin, _got) = scripted(response);
        let (next, _next) = scripted(OK);
        let answer = egress.exchange(
            format!(
                "{method} http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\n{credential}\r\n\
                 GET http://{next}/ HTTP/1.1\r\nHost: {next}\r\n{credential}Connection: close\r\n\r\n"
            )
            .as_bytes(),
        );
        let (first, second) = answer.split_once("\r\n\r\n").unwrap();
        assert!(first.contains(want), "{first}");
        assert!(second.starts_with("HTTP/1.1 200 OK\r\n"), "{second}");
    }
}

#[test]
fn an_upload_that_waits_for_100_flows_only_when_the_destination_is_allowed() {
    let (tell, got) = std::sync::mpsc::channel();
    let origin = origin(move |mut stream| {
        let (mut all, mut buf) = (Vec::new(), [0; 1024]);
        while !all.ends_with(b"data") {
            let n = stream.read(&mut buf).unwrap();
            all.extend_from_slice(&buf[..n]);
        }
        stream.write_all(OK).unwrap();
        tell.send(all).unwrap();
    });
    let egress = Egress::start(&["127.0.0.1:*"]);
    let credential = Egress::credential(&egress.token("robot"));
    let mut stream = egress.connect();
    let head = |host: &str| {
        format!(
            "PUT http://{host}/ HTTP/1.1\r\nHost: {host}\r\n{credential}Content-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        )
    };
    stream.write_all(head(&origin.to_string()).as_bytes()).unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"data").unwrap();
    let mut answer = vec![0; 15];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, b"HTTP/1.1 200 OK");
    assert!(got.recv_timeout(PATIENCE).unwrap().ends_with(b"data"));
    let denied = egress.exchange(head("denied.example").as_bytes());
    assert!(denied.starts_with("HTTP/1.1 403 ") && !denied.contains("100 Continue"), "{denied}");
}

#[test]
fn a_server_that_answers_early_is_heard_while_the_upload_still_runs() {
    let origin = origin(|mut stream| {
        let mut buf = [0; 1024];
        let _ = stream.read(&mut buf);
        let _ = stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig");
        std::thread::sleep(Duration::from_millis(500));
    });
    let egress = Egress::start(&["127.0.0.1:*"]);
    let credential = Egress::credential(&egress.token("robot"));
    let mut stream = egress.connect();
    let head = format!(
        "PUT http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\n{credential}Content-Length: 1000000000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&[b'x'; 10_000]).unwrap();
    let answer = read_to_end(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 413 Too Large\r\n") && answer.ends_with("big"), "{answer}");
    let events = egress.closed(1);
    assert_eq!(responses(&events)[0].status, Some(413));
}

#[test]
fn events_that_stream_arrive_while_the_response_is_open() {
    let (step, steps) = std::sync::mpsc::channel::<()>();
    let steps = std::sync::Mutex::new(steps);
    let origin = origin(move |mut stream| {
        let mut buf = [0; 1024];
        let _ = stream.read(&mut buf);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n").unwrap();
        steps.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        stream.write_all(b"data: 2\n\n").unwrap();
    });
    let egress = Egress::start(&["127.0.0.1:*"]);
    let credential = Egress::credential(&egress.token("robot"));
    let mut stream = egress.connect();
    stream
        .write_all(
            format!(
                "GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\n{credential}Connection: close\r\n\r\n"
            )
            .as_bytes(),
        )
        .unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"data: 1\n\n\r\n") {
        let mut buf = [0; 256];
        let n = stream.read(&mut buf).unwrap();
        assert!(n > 0, "{}", String::from_utf8_lossy(&got));
        got.extend_from_slice(&buf[..n]);
    }
    step.send(()).unwrap();
    assert!(read_to_end(&mut stream).ends_with("data: 2\n\n\r\n0\r\n\r\n"));
}

#[test]
fn a_refusal_says_which_host_and_which_list() {
    let egress = Egress::start(&["origin.test"]);
    let credential = Egress::credential(&egress.token("robot"));
    let ask = |host: &str| {
        let text = egress.exchange(
            format!("GET http://{host}/x HTTP/1.1\r\nHost: {host}\r\n{credential}Connection: close\r\n\r\n")
                .as_bytes(),
        );
        let (head, body) = text.split_once("\r\n\r\n").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        (head, serde_json::from_str::<serde_json::Value>(&body).unwrap())
    };
    let (head, problem) = ask("unlisted.example");
    assert!(head.starts_with("HTTP/1.1 403 Forbidden (bodycam: host-not-allowed)\r\n"), "{head}");
    let detail = problem["detail"].as_str().unwrap();
    for part in
        ["unlisted.example", "'robot' and 'ada'", "\"unlisted.example:80\"", "egress", "[[principals]]"]
    {
        assert!(detail.contains(part), "{detail}");
    }
    let (_, problem) = ask("origin.test");
    assert_eq!(problem["reason"], "address-not-allowed");
    assert!(problem["detail"].as_str().unwrap().contains("127.0.0.1, a loopback address"), "{problem}");
    let events = egress.closed(2);
    let refusals: Vec<_> = requests(&events).iter().map(|r| r.refusal.clone().unwrap()).collect();
    assert_eq!(refusals, ["host-not-allowed", "address-not-allowed"]);
    assert!(requests(&events).iter().all(|r| r.verdict == "deny"));
    assert_eq!(requests(&events)[1].address_class.as_deref(), Some("loopback"));
    assert!(responses(&events).is_empty(), "a refused request has no response");
}

#[test]
fn without_a_valid_credential_there_is_407_and_the_record_knows_why() {
    let (origin, _got) = scripted(OK);
    let egress = Egress::start(&["127.0.0.1:*"]);
    let (good, gone) = (egress.token("robot"), egress.token("robot"));
    egress.revoke(&gone);
    let wrong = good.replace(|c: char| c.is_ascii_digit(), "7");
    let ask = |field: &str| {
        egress.exchange(
            format!("GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\n{field}Connection: close\r\n\r\n")
                .as_bytes(),
        )
    };
    let missing = ask("");
    assert!(missing.starts_with("HTTP/1.1 407 "), "{missing}");
    assert!(missing.contains("\r\nProxy-Authenticate: Basic realm=\"bodycam\"\r\n"));
    for field in [
        Egress::credential("nonsense"),
        Egress::credential(&gone),
        Egress::credential(&wrong),
        "Proxy-Authorization: Digest x=y\r\n".to_owned(),
        format!("Proxy-Authorization: Bearer {gone}\r\n"),
    ] {
        assert_eq!(ask(&field), missing, "the same answer whatever is wrong: {field}");
    }
    // The question is no attempt; each attempt is a session of nobody, with what was presented.
    let events = egress.closed(5);
    let malformed = "malformed-credential";
    let mut reasons = decisions(&events);
    reasons.sort();
    assert_eq!(reasons, [malformed, malformed, malformed, "revoked", "revoked"]);
    assert!(close_reasons(&events).iter().all(|reason| reason == "refused"));
    let mut credentials = Vec::new();
    for event in &events {
        if let Body::SessionOpened(opened) = &event.body {
            assert_eq!((opened.principal_kind.as_str(), opened.protocol.as_str()), ("unknown", "http"));
            credentials.push((opened.auth_method.clone(), opened.credential));
            let facts = event.pairs(ContentKind::SessionFacts);
            assert!(facts.contains(&("client_address".to_owned(), "127.0.0.1".to_owned())), "{facts:?}");
            assert!(!facts.iter().any(|(_, value)| value.contains(&gone)), "a token is in the record");
        }
    }
    let id = bodycam_record::TenantKey::new([7; 32]).credential(gone.split('_').nth(1).unwrap());
    for presented in ["proxy-basic", "token"] {
        assert!(credentials.contains(&(presented.to_owned(), id)), "{credentials:?}");
    }
    let bearer = ask(&format!("Proxy-Authorization: Bearer {good}\r\n"));
    assert!(bearer.starts_with("HTTP/1.1 200 OK"), "{bearer}");
    // The challenge leaves the connection open, as git wants it.
    let two = format!(
        "GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\n\r\n\
         GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\n{}Connection: close\r\n\r\n",
        Egress::credential(&good)
    );
    let answer = egress.exchange(two.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 407 ") && answer.contains("HTTP/1.1 200 OK"), "{answer}");
}

#[test]
fn another_credential_on_the_same_connection_closes_it() {
    let (origin, _got) = scripted(OK);
    let egress = Egress::start(&["127.0.0.1:*"]);
    let (one, other) = (egress.token("robot"), egress.token("robot"));
    let ask = |token: &str| {
        format!("GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\n{}\r\n", Egress::credential(token))
    };
    let answer = egress.exchange(format!("{}{}{}", ask(&one), ask(&other), ask(&one)).as_bytes());
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 2, "{answer}");
    assert!(answer.contains("HTTP/1.1 403 Forbidden (bodycam: other-credential)"), "{answer}");
    let events = egress.closed(1);
    assert_eq!(decisions(&events), ["other-credential"]);
    assert_eq!((requests(&events).len(), close_reasons(&events)), (1, vec!["protocol-violation".to_owned()]));
}

#[test]
fn a_correlation_id_may_come_with_the_credential() {
    let (origin, _got) = scripted(OK);
    let egress = Egress::start(&["127.0.0.1:*"]);
    let token = egress.token("robot");
    let output = egress
        .client("curl", &token)
        .args(["-sS", "--proxy", &egress.url("robot+task-42", &token), &format!("http://{origin}/")])
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"hello", "{}", String::from_utf8_lossy(&output.stderr));
    let events = egress.closed(1);
    assert_eq!(events[0].text(ContentKind::Correlation), "task-42");
    assert_eq!(events[1].text(ContentKind::Correlation), "task-42");
    assert!(requests(&events)[0].correlation.is_some());
}

#[test]
fn what_a_target_does_wrong_is_answered_and_recorded() {
    let egress = Egress::with(&["127.0.0.1:*", "nothing.invalid"], |c| c.response_seconds = 1);
    let credential = Egress::credential(&egress.token("robot"));
    let ask = |host: String| {
        egress.exchange(
            format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n{credential}Connection: close\r\n\r\n")
                .as_bytes(),
        )
    };
    let silent = origin(|stream| {
        std::thread::sleep(Duration::from_secs(5));
        drop(stream);
    });
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let bad = |response: &'static [u8]| scripted(response).0.to_string();
    for (host, status, code, outcome) in [
        (silent.to_string(), 504, "response-timeout", "timeout"),
        (free.to_string(), 502, "not-connected", "error"),
        ("nothing.invalid".to_owned(), 502, "not-resolved", "error"),
        (bad(b""), 502, "server-closed", "server-closed"),
        (bad(b"garbage"), 502, "first-line", "refused"),
        (bad(b"HTTP/1.1 200 OK\nX: y\n\n"), 502, "bare-lf", "refused"),
        (
            bad(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
            502,
            "length-and-encoding",
            "refused",
        ),
        (
            bad(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"),
            502,
            "upgrade-not-allowed",
            "refused",
        ),
        (
            bad(b"HTTP/1.1 407 Give\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n"),
            502,
            "proxy-credentials-asked",
            "refused",
        ),
    ] {
        let before = egress.events().len();
        let answer = ask(host.clone());
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(code),
            "{host}: {answer}"
        );
        let events = egress.wait_for("the response", |e| e.len() >= before + 4);
        let response = responses(&events).pop().unwrap();
        assert_eq!((response.status, response.outcome.as_str()), (Some(status), outcome), "{host}");
    }
    // Cut in the body: what was sent cannot be taken back, but it does not look whole.
    let cut = ask(bad(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"));
    assert!(cut.ends_with("half"), "{cut}");
    let cut = ask(bad(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"));
    assert!(cut.ends_with("half\r\n"), "{cut}");
    let events = egress.closed(11);
    assert_eq!(
        responses(&events).iter().filter(|r| r.outcome == "server-closed" && r.status == Some(200)).count(),
        2
    );
}

#[test]
fn interim_responses_are_not_taken_for_the_response() {
    let (origin, _got) =
        scripted(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let egress = Egress::start(&["127.0.0.1:*"]);
    let credential = Egress::credential(&egress.token("robot"));
    let answer = egress.exchange(
        format!("GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\n{credential}Connection: close\r\n\r\n")
            .as_bytes(),
    );
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok"), "{answer}");
}

#[test]
fn a_revoked_token_ends_its_sessions_and_a_stop_drains_them() {
    let (origin, _got) = scripted(OK);
    let mut egress = Egress::start(&["127.0.0.1:*"]);
    let token = egress.token("robot");
    let ask =
        format!("GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\n{}\r\n", Egress::credential(&token));
    let mut stream = egress.connect();
    stream.write_all(ask.as_bytes()).unwrap();
    egress.wait_for("the response", |e| !responses(e).is_empty());
    egress.revoke(&token);
    assert!(read_to_end(&mut stream).starts_with("HTTP/1.1 200 OK"));
    assert_eq!(close_reasons(&egress.closed(1)), ["revoked"]);

    let token = egress.token("robot");
    let ask =
        format!("GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\n{}\r\n", Egress::credential(&token));
    let mut stream = egress.connect();
    stream.write_all(ask.as_bytes()).unwrap();
    egress.wait_for("the response", |e| responses(e).len() == 2);
    egress.stop();
    assert_eq!(close_reasons(&egress.closed(2)), ["revoked", "drain"]);
}

#[test]
fn a_client_that_stops_is_timed_out_and_costs_nobody_else_anything() {
    let (origin, _got) = scripted(OK);
    let egress = Egress::with(&["127.0.0.1:*"], |c| {
        c.head_seconds = 1;
        c.idle_seconds = 1;
        c.stall_seconds = 1;
    });
    let credential = Egress::credential(&egress.token("robot"));
    let half = format!("GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\n{credential}");
    let mut silent = egress.connect();
    let mut slow = egress.connect();
    slow.write_all(half.as_bytes()).unwrap();
    let mut body = egress.connect();
    body.write_all(format!("{half}Content-Length: 5\r\n\r\nab").as_bytes()).unwrap();
    let mut idle = egress.connect();
    idle.write_all(format!("{half}\r\n").as_bytes()).unwrap();
    let working = egress.exchange(format!("{half}Connection: close\r\n\r\n").as_bytes());
    assert!(working.starts_with("HTTP/1.1 200 OK"));
    assert_eq!(read_to_end(&mut silent), "");
    assert!(read_to_end(&mut slow).starts_with("HTTP/1.1 408 "));
    assert!(read_to_end(&mut body).contains("hello"), "this origin answers early");
    assert!(read_to_end(&mut idle).starts_with("HTTP/1.1 200 OK"));
    let events = egress.closed(3);
    assert!(close_reasons(&events).contains(&"timeout".to_owned()));
    let limit =
        |e: &crate::support::egress::Seen| matches!(&e.body, Body::ControlLimit(l) if l.limit_name == "idle");
    assert!(events.iter().any(limit));
}

#[test]
fn who_trickles_stands_still_or_is_gone_holds_nothing_for_long() {
    let mute = origin(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let half = origin(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let egress = Egress::with(&["127.0.0.1:*"], |c| c.stall_seconds = 1);
    let credential = Egress::credential(&egress.token("robot"));
    let head = |method: &str, to| format!("{method} http://{to}/ HTTP/1.1\r\nHost: {to}\r\n{credential}");
    let begun = std::time::Instant::now();

    let mut stream = egress.connect();
    stream.write_all(format!("{}Content-Length: 100\r\n\r\n", head("POST", mute)).as_bytes()).unwrap();
    let mut trickle = stream.try_clone().unwrap();
    let trickle = std::thread::spawn(move || {
        while trickle.write_all(b"x").is_ok() && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    let answer = read_to_end(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 408 Request Timeout (bodycam: body-timeout)"), "{answer}");
    trickle.join().unwrap();

    let answer = egress.exchange(format!("{}\r\n", head("GET", half)).as_bytes());
    assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");

    let mut stream = egress.connect();
    stream.write_all(format!("{}\r\n", head("GET", mute)).as_bytes()).unwrap();
    egress.wait_for("the request", |e| requests(e).len() == 3);
    drop(stream);
    let events = egress.closed(3);
    let outcomes: Vec<_> = responses(&events).iter().map(|r| r.outcome.clone()).collect();
    assert_eq!(outcomes, ["timeout", "timeout", "client-closed"]);
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
}

#[test]
fn a_principal_has_only_so_many_sessions() {
    let egress = Egress::with(&["127.0.0.1:*"], |c| c.max_sessions_per_principal = 2);
    let (origin, _got) = scripted(OK);
    let credential = Egress::credential(&egress.token("robot"));
    let ask = format!("GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\n{credential}\r\n");
    let mut held: Vec<_> = (0..2).map(|_| egress.connect()).collect();
    for stream in &mut held {
        stream.write_all(ask.as_bytes()).unwrap();
        let mut status = [0; 15];
        stream.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 200 OK");
    }
    assert!(egress.exchange(ask.as_bytes()).starts_with("HTTP/1.1 429 "));
    drop(held);
    let events = egress.closed(3);
    assert_eq!(decisions(&events), ["sessions"]);
    assert!(close_reasons(&events).contains(&"limit".to_owned()));
    let limit = |e: &crate::support::egress::Seen| matches!(&e.body, Body::ControlLimit(l) if (l.limit_name.as_str(), l.limit_value, l.observed) == ("sessions", 2, 3));
    assert!(events.iter().any(limit));
    let again = egress.exchange(ask.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes());
    assert!(again.starts_with("HTTP/1.1 200 OK"), "{again}");
}

#[test]
fn a_spool_that_is_full_lets_nothing_through() {
    let (origin, got) = scripted(OK);
    let egress = Egress::custom(&["127.0.0.1:*"], |c| c.spool_bytes = 24 << 10);
    let credential = Egress::credential(&egress.token("robot"));
    let ask =
        format!("GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\n{credential}Connection: close\r\n\r\n");
    let mut answered = 0;
    while egress.exchange(ask.as_bytes()).starts_with("HTTP/1.1 200 OK") {
        answered += 1;
        assert!(answered < 1000, "the spool does not fill");
    }
    assert!(answered > 2, "{answered}");
    let mut reached = 0;
    while got.recv_timeout(Duration::from_millis(500)).is_ok() {
        reached += 1;
    }
    let events = egress.events();
    assert!(reached <= requests(&events).len(), "a request reached its target unrecorded");
    assert!(answered <= responses(&events).len(), "a response reached its client unrecorded");
}

#[test]
fn a_token_in_clear_is_taken_from_loopback_only_unless_the_network_is_trusted() {
    let (origin, _got) = scripted(OK);
    let address = std::net::IpAddr::from([192, 0, 2, 7]);
    let ask = |egress: &Egress| {
        let credential = Egress::credential(&egress.token("robot"));
        let head = format!(
            "GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\n{credential}Connection: close\r\n\r\n"
        );
        egress.exchange(head.as_bytes())
    };
    let far = Egress::custom(&["127.0.0.1:*"], |c| c.peer = Some(address));
    let answer = ask(&far);
    assert!(answer.starts_with("HTTP/1.1 403 Forbidden (bodycam: cleartext-credential)"), "{answer}");
    let events = far.closed(1);
    assert_eq!(
        (decisions(&events), close_reasons(&events)),
        (vec!["cleartext-credential".to_owned()], vec!["refused".to_owned()])
    );
    let trusted = Egress::custom(&["127.0.0.1:*"], |c| {
        c.peer = Some(address);
        c.http.allow_cleartext = true;
        c.http.listen.set_ip([0, 0, 0, 0].into());
    });
    assert!(ask(&trusted).starts_with("HTTP/1.1 200 OK"));
}
