//! The first bytes of a PostgreSQL client, before anyone is known. Laws: the packet is as long as it says and no
//! longer than the server allows; fewer bytes give nothing or the same refusal; what was read writes the same
//! bytes again; settings in `options` mean the same when they are spelled anew.
#![no_main]

use bodycam_fuzz::bits;
use bodycam_proxy::postgres::codec::startup::{self, MAX_PACKET, Packet};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = startup::packet(bytes);
    let length = whole.as_ref().ok().and_then(Option::as_ref).map(|(_, used)| *used);
    for cut in bits::cuts(bytes) {
        let part = startup::packet(&bytes[..cut]);
        if length.is_some_and(|used| used <= cut) {
            assert_eq!(part, whole, "cut at {cut}");
        } else {
            assert!(part == Ok(None) || part == whole, "cut at {cut}: {part:?}, not {whole:?}");
        }
    }
    if let Ok(Some((packet, used))) = &whole {
        assert!((8..=MAX_PACKET).contains(used) && *used <= bytes.len());
        if let Some(again) = again(packet) {
            assert_eq!(again, bytes[..*used], "{packet:?} has two spellings");
        }
        if let Packet::Startup(startup) = packet
            && let Some(options) = startup.get("options")
        {
            options_mean_the_same_spelled_anew(options);
        }
    }
    options_mean_the_same_spelled_anew(bytes);
});

fn again(packet: &Packet) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match packet {
        Packet::Tls => startup::put_tls_request(&mut out),
        Packet::Cancel { process, key } => startup::put_cancel(&mut out, *process, key),
        Packet::Startup(s) => {
            let pairs = s.parameters.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
            startup::put_startup(&mut out, s.version, pairs);
        }
        Packet::Unsupported(version) => {
            assert_ne!(version.major, 3);
            return None;
        }
        Packet::Gss => return None,
    }
    Some(out)
}

fn options_mean_the_same_spelled_anew(text: &[u8]) {
    let Some(settings) = startup::options(text) else { return };
    let mut spelled = Vec::new();
    for setting in &settings {
        assert!(!setting.name.is_empty());
        assert!(setting.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.".contains(&b)), "{setting:?}");
        spelled.extend_from_slice(b" --");
        spelled.extend_from_slice(setting.name.as_bytes());
        spelled.push(b'=');
        setting.value.iter().for_each(|b| spelled.extend_from_slice(&[b'\\', *b]));
    }
    assert_eq!(startup::options(&spelled), Some(settings));
}
