use proptest::prelude::*;

use crate::frames::*;
use crate::wire::{FRAME_MAX, WireError, split_frame};

fn failure(class: FailureClass) -> Failure {
    Failure { class, name: "TypeError".into(), message: "x is not a function".into(), stack: "at f (a.ts:1:2)".into() }
}

fn check_to_runner(frame: ToRunner<'_>) {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    let (kind, body, length) = split_frame(&bytes).unwrap().expect("a whole frame");
    assert_eq!(length, bytes.len());
    assert_eq!(ToRunner::decode(kind, body), Ok(frame));
    for end in 0..body.len() {
        assert!(ToRunner::decode(kind, &body[..end]).is_err(), "a frame cut at {end} is refused");
    }
}

fn check_from_runner(frame: FromRunner<'_>) {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    let (kind, body, _) = split_frame(&bytes).unwrap().expect("a whole frame");
    assert_eq!(FromRunner::decode(kind, body), Ok(frame));
    for end in 0..body.len() {
        assert!(FromRunner::decode(kind, &body[..end]).is_err(), "a frame cut at {end} is refused");
    }
}

#[test]
fn every_frame_to_a_runner_reads_back() {
    check_to_runner(ToRunner::Hello { version: VERSION, service: "shop" });
    check_to_runner(ToRunner::Deploy(Deploy {
        function: 3,
        name: "shop.total".into(),
        modules: vec![Module {
            specifier: "file:///function/total.ts".into(),
            code: "export default 1".into(),
            source_map: b"{}".to_vec(),
        }],
        handler: "default".into(),
        env: vec![("REGION".into(), "eu".into())],
        limits: Limits::default(),
    }));
    check_to_runner(ToRunner::Open { isolate: 1, function: 3 });
    check_to_runner(ToRunner::Abort { isolate: 1, batch: u64::MAX });
    check_to_runner(ToRunner::Close { isolate: 1 });
    let event = |data| Event { template: 0, id: "orders/0/1", attempt: 1, metadata: b"{\"id\":1}", data };
    check_to_runner(ToRunner::Invoke(Invoke {
        isolate: 1,
        batch: 9,
        ordered: true,
        want_results: false,
        trigger: "shop.placed",
        templates: vec![Template { keys: vec!["id", "data"], data_key: 1 }],
        events: vec![
            event(Data::Null),
            event(Data::Json(b"[1]")),
            event(Data::Text("hi")),
            event(Data::Bytes(&[0xff, 0])),
        ],
    }));
}

#[test]
fn every_frame_from_a_runner_reads_back() {
    check_from_runner(FromRunner::Ready { version: VERSION, pid: 77 });
    check_from_runner(FromRunner::Opened { isolate: 1, from_spare: true, micros: 470 });
    for class in FailureClass::ALL {
        check_from_runner(FromRunner::Closed { isolate: 1, error: Some(failure(*class)) });
    }
    check_from_runner(FromRunner::Closed { isolate: 1, error: None });
    for result in [Ok(&b"{\"a\":1}"[..]), Ok(&b""[..]), Err(failure(FailureClass::Timeout))] {
        check_from_runner(FromRunner::Outcome(Outcome {
            isolate: 1,
            batch: 9,
            event: 2,
            wall_us: 10,
            cpu_us: 9,
            heap_bytes: 8,
            result,
        }));
    }
    for level in Level::ALL {
        check_from_runner(FromRunner::Log { isolate: 1, batch: 9, event: Some(2), level: *level, text: "hello" });
    }
    check_from_runner(FromRunner::Stuck { isolate: 1, batch: 9, event: None, error: failure(FailureClass::Timeout) });
    check_from_runner(FromRunner::Usage { resident_bytes: 1, cpu_us: 2, parsed_bytes: 5, isolates: 3, spares: 4 });
}

#[test]
fn a_partial_frame_waits_and_an_impossible_one_is_refused() {
    assert_eq!(split_frame(&[1, 0]), Ok(None));
    assert_eq!(split_frame(&[2, 0, 0, 0, 1]), Ok(None));
    assert_eq!(split_frame(&[0, 0, 0, 0]), Err(WireError::Truncated));
    assert_eq!(split_frame(&u32::MAX.to_le_bytes()), Err(WireError::TooLong(u32::MAX as usize)));
    const { assert!(FRAME_MAX < u32::MAX as usize) };
}

#[test]
fn a_lying_count_allocates_nothing() {
    // A list that claims four thousand million elements in a body of some bytes.
    let mut body = Vec::new();
    body.extend_from_slice(&3u32.to_le_bytes());
    body.extend_from_slice(&0u32.to_le_bytes());
    body.extend_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(ToRunner::decode(2, &body), Err(WireError::Truncated));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(kind in any::<u8>(), body in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = ToRunner::decode(kind, &body);
        let _ = FromRunner::decode(kind, &body);
        let _ = split_frame(&body);
    }
}
