use proptest::prelude::*;

use super::*;

fn timeline(steps: &[(i64, u32, u8)]) -> Timeline {
    let mut timeline = Timeline::default();
    let mut at_ns = 0;
    for (seq, (wait, rows, mark)) in steps.iter().enumerate() {
        at_ns += wait;
        timeline.push(Tick {
            seq: seq as i64,
            at_ns,
            rows: *rows,
            bytes: i64::from(*rows) * 512,
            mark: [Mark::None, Mark::Allow, Mark::Deny, Mark::Error, Mark::Gap][usize::from(mark % 5)],
            step: mark % 2 == 1,
        });
    }
    timeline
}

fn steps() -> impl Strategy<Value = Vec<(i64, u32, u8)>> {
    let wait = prop_oneof![0i64..1_000, 0i64..2_000_000_000, 2_000_000_000i64..100_000_000_000];
    prop::collection::vec((wait, 0u32..50_000, any::<u8>()), 1..1500)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn seek_to_t_shows_what_playing_from_the_start_to_t_shows(
        steps in steps(), share in 0.0f64..=1.0, skip_idle: bool, speed in 0usize..8, frames in prop::collection::vec(1i64..3_000_000_000, 1..40),
    ) {
        let timeline = timeline(&steps);
        let mut played = Player { playing: true, skip_idle, speed, ..Player::default() };
        let mut now = 0;
        played.advance(&timeline, now, true);
        for frame in frames {
            now += frame;
            let before = played.at_ns;
            played.advance(&timeline, now, true);
            prop_assert!(played.at_ns >= before, "time runs forward");
        }
        let mut sought = Player { skip_idle, ..Player::default() };
        sought.seek(&timeline, played.at_ns);
        prop_assert_eq!(sought.at_ns, played.at_ns);
        prop_assert_eq!(timeline.index_at(sought.at_ns), timeline.index_at(played.at_ns));

        // What is shown at t is what replaying every event from 0 to t adds up to.
        let at_ns = (timeline.end_ns() as f64 * share) as i64;
        let mut replayed = Totals::default();
        let mut shown = None;
        for (i, tick) in timeline.ticks().iter().enumerate().take_while(|(_, t)| t.at_ns <= at_ns) {
            replayed.add(tick);
            shown = Some(i);
        }
        prop_assert_eq!(timeline.index_at(at_ns), shown);
        prop_assert_eq!(timeline.totals(timeline.happened(at_ns)), replayed);
    }

    #[test]
    fn cut_time_and_real_time_are_inverse_and_ordered(steps in steps(), shares in prop::collection::vec(0.0f64..=1.0, 2..20)) {
        let timeline = timeline(&steps);
        let mut times: Vec<i64> = shares.iter().map(|s| (timeline.end_ns() as f64 * s) as i64).collect();
        times.sort_unstable();
        let played: Vec<i64> = times.iter().map(|t| timeline.play_ns(*t, true)).collect();
        prop_assert!(played.is_sorted());
        for tick in timeline.ticks() {
            let there = timeline.play_ns(tick.at_ns, true);
            prop_assert_eq!(timeline.real_ns(there, true), tick.at_ns);
            prop_assert!(there <= tick.at_ns);
        }
        let idle: i64 = timeline.gaps().iter().map(|g| g.to_ns - g.from_ns - SKIPPED_NS).sum();
        prop_assert_eq!(timeline.play_ns(timeline.end_ns(), true), timeline.end_ns() - idle);
    }

    #[test]
    fn every_event_is_drawn_in_exactly_one_column(steps in steps(), width in 1usize..300, skip_idle: bool) {
        let timeline = timeline(&steps);
        let buckets = timeline.buckets(width, skip_idle);
        prop_assert_eq!(buckets.len(), width);
        let sum = buckets.iter().fold(Totals::default(), |mut sum, b| {
            sum.events += b.totals.events;
            sum.rows += b.totals.rows;
            sum.denies += b.totals.denies;
            sum
        });
        let all = timeline.totals(timeline.len());
        prop_assert_eq!((sum.events, sum.rows, sum.denies), (all.events, all.rows, all.denies));
        prop_assert!(timeline.column_of(timeline.end_ns(), width, skip_idle) < width);
        prop_assert_eq!(timeline.column_of(0, width, skip_idle), 0);
    }
}

#[test]
fn idle_time_is_cut_to_a_second_and_played_so() {
    let second = 1_000_000_000;
    let timeline = timeline(&[(0, 1, 1), (second, 1, 1), (600 * second, 1, 1), (second, 1, 1)]);
    assert_eq!(timeline.gaps().len(), 1);
    let mut player = Player { playing: true, ..Player::default() };
    player.advance(&timeline, 0, false);
    for (now, index) in [(999_999_999, 0), (second, 1), (2 * second - 1, 1), (2 * second, 2), (3 * second, 3)]
    {
        player.advance(&timeline, now, false);
        assert_eq!(timeline.index_at(player.at_ns), Some(index), "{now}");
    }
    assert!(!player.playing, "it stops at the end");
    player.skip_idle = false;
    player.seek(&timeline, second);
    player.toggle(&timeline);
    player.advance(&timeline, 10 * second, false);
    player.advance(&timeline, 20 * second, false);
    assert_eq!(player.at_ns, 11 * second);
    assert_eq!(player.next_due_ns(&timeline), Some(20 * second + 590 * second));
}

#[test]
fn the_next_event_is_due_when_the_clock_says_so_at_any_speed() {
    let second = 1_000_000_000;
    let timeline = timeline(&[(0, 1, 1), (2 * second, 1, 1)]);
    let mut player = Player { playing: true, ..Player::default() };
    assert_eq!(player.next_due_ns(&timeline), None, "before the first advance nothing is known");
    player.advance(&timeline, 100, true);
    assert_eq!(player.next_due_ns(&timeline), Some(100 + 2 * second));
    player.change_speed(true);
    assert_eq!((player.next_due_ns(&timeline), player.speed_label()), (Some(100 + second), "2x"));
    player.change_speed(false);
    player.change_speed(false);
    assert_eq!(player.next_due_ns(&timeline), Some(100 + 4 * second));
    player.advance(&timeline, 100 + 4 * second, true);
    assert_eq!(timeline.index_at(player.at_ns), Some(1));
    assert_eq!(player.next_due_ns(&timeline), None, "nothing follows");
}

#[test]
fn places_are_offsets_times_of_day_numbers_and_shares() {
    let second = 1_000_000_000;
    for (text, place) in [
        ("+12:31", Some(Goto::Offset(751 * second))),
        ("+1:00:00.5", Some(Goto::Offset(3600 * second + second / 2))),
        ("+90s", Some(Goto::Offset(90 * second))),
        ("14:02", Some(Goto::Clock((14 * 3600 + 120) * second))),
        ("14:02:11", Some(Goto::Clock((14 * 3600 + 131) * second))),
        (" #812 ", Some(Goto::Seq(812))),
        ("50%", Some(Goto::PerMille(500))),
        ("12.5%", Some(Goto::PerMille(125))),
        ("101%", None),
        ("#-1", None),
        ("soon", None),
        ("", None),
    ] {
        assert_eq!(Goto::parse(text), place, "{text}");
    }
    let timeline = timeline(&[(0, 1, 1), (10 * second, 1, 1)]);
    let start = (13 * 3600) * second + 86_400 * second * 20_000;
    assert_eq!(Goto::Clock((13 * 3600 + 5) * second).at_ns(&timeline, start), 5 * second);
    // A quarter past, as it is shown: the session starts within that second. Then an hour before it.
    for earlier in [13 * 3600, 12 * 3600] {
        assert_eq!(Goto::Clock(earlier * second).at_ns(&timeline, start + second / 4), 0, "{earlier}");
    }
    assert_eq!(Goto::Clock(14 * 3600 * second).at_ns(&timeline, start), 3600 * second, "after its end");
    let days = self::timeline(&[(0, 1, 1), (30 * 3600 * second, 1, 1)]);
    let at = |hour: i64, start_hour: i64| {
        let start = (start_hour * 3600) * second + 86_400 * second * 20_000 + 1;
        Goto::Clock(hour * 3600 * second).at_ns(&days, start) / second / 3600
    };
    assert_eq!((at(23, 22), at(21, 22), at(1, 22), at(22, 22)), (0, 0, 2, 0));
    let late = self::timeline(&[(0, 1, 1), (60 * second, 1, 1)]);
    let midnight = 86_400 * second * 20_000 + 30 * second;
    assert_eq!(Goto::Clock((86_400 - 30) * second).at_ns(&late, midnight), 0, "the evening before");
    let past_end = Goto::Seq(99).check(&timeline).unwrap_err().to_string();
    assert_eq!(past_end, "there is no event #99: the last one of this session is #1");
    assert!(Goto::Seq(1).check(&timeline).is_ok() && Goto::Offset(i64::MAX).check(&timeline).is_ok());
    assert_eq!(Goto::PerMille(500).at_ns(&timeline, start), 5 * second);
    assert_eq!(Goto::Seq(1).at_ns(&timeline, start), 10 * second);
}
