//! Fragments from outside that come before the first of their datagram.

use std::time::Duration;

use anyhow::Result;
use aya::programs::tc::TcAttachType;
use vnet_common::{limits, names::program, reason::Handover};
use vnet_tests::programs::{modes::*, *};

use crate::fragments_order::{ORDERS, SIZE, big};

const DEADLINE: Duration = Duration::from_secs(5);

fn is_held() -> Counted {
    counted(&[("0 handover held-fragment", 1)])
}

/// The reply to a new flow of the guest: three fragments, and what the guest gets of them.
fn reply(rig: &mut Rig, ends: &Ends) -> Result<[Vec<Vec<u8>>; 2]> {
    let (guest, remote) = (port_of(ends.guest, 40000), port_of(ends.remote, 53));
    rig.from_guest(&udp(&guest, &remote))?;
    let external = port_of(ends.external, rig.tables()?.only().external_port.to_host());
    let reply = big(&remote, &external);
    Ok([reply.fragments(SIZE), reply.to(&guest).ttl(63).fragments(SIZE)])
}

#[test]
fn fragments_in_any_order_reach_the_guest_translated() -> Result<()> {
    for ends in Ends::BOTH {
        for order in ORDERS {
            with_modes(|rig| {
                rig.attach(program::UPLINK_INGRESS, "eth0", TcAttachType::Ingress)?;
                let [sent, received] = reply(rig, &ends)?;
                // What is sent out of the bridge; `virbr0` has its other end there.
                let capture =
                    rig.namespace.capture("port1", "ip[6:2] & 0x3fff != 0 or ip6[6] == 44")?;
                let first = order.iter().position(|&place| place == 0).unwrap_or(0);
                for (turn, place) in order.into_iter().enumerate() {
                    let mut outcome = rig.frame_from_outside(&sent[place])?;
                    // The attached program counts the multicast reports of the other end, too.
                    outcome.counted.remove("0 handover no-flow");
                    if turn < first {
                        outcome.assert(Verdict::Pass, &sent[place], 0, &is_held());
                        assert_eq!(rig.held_fragments()?.len(), turn + 1);
                    } else if turn == first && turn > 0 {
                        assert_eq!(outcome.verdict, Verdict::Drop);
                        assert!(rig.held_fragments()?.is_empty());
                    } else {
                        assert_eq!(outcome.verdict, Verdict::Redirect);
                        assert_eq!(hex(&outcome.frame), hex(&received[place]));
                    }
                }
                // What came anew went through the attached program, the rest only through the test's run.
                let again: Vec<&Vec<u8>> = std::iter::once(0)
                    .chain(order.into_iter().take(first))
                    .map(|place| &received[place])
                    .collect();
                if first > 0 {
                    for frame in &again {
                        capture.wait_for(|packet| packet.data[14..] == frame[14..], DEADLINE)?;
                    }
                }
                let frames = capture.finish()?;
                assert_eq!(frames.len(), if first > 0 { again.len() } else { 0 });
                assert_eq!(rig.tables()?.only().inbound.packets, 3);
                Ok(())
            })?;
        }
    }
    Ok(())
}

#[test]
fn first_fragment_that_was_waited_for_is_counted_when_it_comes_again() -> Result<()> {
    for ends in Ends::BOTH {
        with_modes(|rig| {
            let [sent, received] = reply(rig, &ends)?;
            rig.frame_from_outside(&sent[1])?.assert(Verdict::Pass, &sent[1], 0, &is_held());
            let outcome = rig.frame_from_outside(&sent[0])?;
            assert_eq!((outcome.verdict, outcome.counted), (Verdict::Drop, Counted::new()));
            assert!(rig.held_fragments()?.is_empty());
            // Nothing waits any more, so that it cannot turn in circles.
            for place in [0, 1, 2] {
                rig.frame_from_outside(&sent[place])?.assert(
                    Verdict::Redirect,
                    &received[place],
                    vnet_common::names::FORWARDED_MARK,
                    &counted(&[
                        ("1 inbound packets", 1),
                        ("1 inbound bytes", sent[place].len() as u64),
                    ]),
                );
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn fragments_of_the_hosts_own_datagrams_pass_as_they_came() -> Result<()> {
    for ends in Ends::BOTH {
        with_modes(|rig| {
            let no_flow = counted(&[("0 handover no-flow", 1)]);
            let own = big(&port_of(ends.remote, 53), &port_of(ends.external, 5353));
            for fragment in own.fragments(SIZE) {
                rig.frame_from_outside(&fragment)?.assert(Verdict::Pass, &fragment, 0, &no_flow);
            }
            assert!(rig.held_fragments()?.is_empty());
            // In another order the stack gets them as well, whatever else is done with them.
            let own = own.identification(8).fragments(SIZE);
            for (place, moved) in [(2, is_held()), (0, no_flow.clone()), (1, no_flow)] {
                let outcome = rig.frame_from_outside(&own[place])?;
                outcome.assert(Verdict::Pass, &own[place], 0, &moved);
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn what_is_kept_of_one_datagram_and_of_all_is_bounded() -> Result<()> {
    for ends in Ends::BOTH {
        with_modes(|rig| {
            let datagram = udp(&port_of(ends.remote, 53), &port_of(ends.external, 20000));
            let datagram = datagram.payload(&[3; 1000]);
            let later = &datagram.fragments(80)[1..];
            for (place, fragment) in later.iter().enumerate() {
                let is_kept = place < limits::HELD_PER_DATAGRAM as usize;
                let handover = if is_kept { Handover::HeldFragment } else { Handover::NoFlow };
                let moved = counted(&[(&format!("0 handover {}", handover.id()), 1)]);
                rig.frame_from_outside(fragment)?.assert(Verdict::Pass, fragment, 0, &moved);
            }
            assert_eq!(rig.held_fragments()?.len(), limits::HELD_PER_DATAGRAM as usize);
            for identification in 0..2 * limits::HELD_FRAGMENTS as u16 {
                let other = datagram.clone().identification(identification).fragments(80);
                rig.frame_from_outside(&other[1])?;
            }
            let kept = rig.held_fragments()?.len();
            assert!(kept > 0 && kept <= limits::HELD_FRAGMENTS as usize, "{kept}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn frame_that_is_too_long_is_not_kept() -> Result<()> {
    with_modes(|rig| {
        let longest = limits::HELD_FRAME_BYTES - 14 - 20;
        for (size, is_kept) in [(longest / 8 * 8, true), (longest / 8 * 8 + 8, false)] {
            let jumbo = udp("192.0.2.10:53", "198.51.100.1:20000").payload(&vec![1; 6000]);
            let later = &jumbo.identification(size as u16).fragments(size)[1];
            rig.frame_from_outside(later)?;
            assert_eq!(rig.held_fragments()?.len(), 1, "{size}: {is_kept}");
        }
        Ok(())
    })
}

#[test]
fn fragment_that_waited_too_long_or_elsewhere_does_not_join_the_datagram() -> Result<()> {
    for ends in Ends::BOTH {
        with_modes(|rig| {
            let [sent, received] = reply(rig, &ends)?;
            let eth1 = rig.ifindex("eth1")?;
            let changes: [&dyn Fn(&mut vnet_common::flow::HeldFragment); 2] =
                [&|held| held.since -= limits::HELD_LIFETIME_NS, &|held| held.ifindex = eth1];
            for change in changes {
                rig.frame_from_outside(&sent[1])?;
                rig.set_held_fragments(change)?;
                let outcome = rig.frame_from_outside(&sent[0])?;
                assert_eq!((outcome.verdict, &outcome.frame), (Verdict::Redirect, &received[0]));
                assert!(rig.held_fragments()?.is_empty());
                rig.forget_first_fragments()?;
            }
            // One in whose place a new one comes.
            rig.frame_from_outside(&sent[1])?;
            rig.set_held_fragments(changes[0])?;
            rig.frame_from_outside(&sent[2])?;
            let held = rig.held_fragments()?;
            assert_eq!((held.len(), held[0].0.index), (1, 0));
            assert_eq!(held[0].1.frame[..held[0].1.length as usize], sent[2]);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn first_fragment_of_long_ago_with_the_same_number_keeps_none_from_waiting() -> Result<()> {
    for ends in Ends::BOTH {
        with_modes(|rig| {
            let [sent, _] = reply(rig, &ends)?;
            let own = big(&port_of(ends.remote, 53), &port_of(ends.external, 5353));
            rig.frame_from_outside(&own.fragments(SIZE)[0])?;
            rig.frame_from_outside(&sent[1])?.assert(
                Verdict::Pass,
                &sent[1],
                0,
                &counted(&[("0 handover no-flow", 1)]),
            );
            // 15 s is how long it is remembered; the clock may have run for less.
            let age = (limits::FRAGMENT_LIFETIME_NS + 1).min(rig.clock()?);
            if age > limits::FRAGMENT_LIFETIME_NS {
                rig.age_first_fragments(age)?;
                rig.frame_from_outside(&sent[1])?.assert(Verdict::Pass, &sent[1], 0, &is_held());
            } else {
                println!("skipped: this machine has run for less than 15 s");
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn fragment_that_waited_too_long_keeps_no_other_from_following_its_first() -> Result<()> {
    for ends in Ends::BOTH {
        with_modes(|rig| {
            let [sent, received] = reply(rig, &ends)?;
            rig.attach(program::UPLINK_INGRESS, "eth0", TcAttachType::Ingress)?;
            let capture =
                rig.namespace.capture("port1", "ip[6:2] & 0x3fff != 0 or ip6[6] == 44")?;
            for place in [1, 2] {
                rig.frame_from_outside(&sent[place])?;
            }
            rig.set_held_fragments_at(0, |held| held.since -= limits::HELD_LIFETIME_NS)?;
            assert_eq!(rig.frame_from_outside(&sent[0])?.verdict, Verdict::Drop);
            for frame in [&received[0], &received[2]] {
                capture.wait_for(|packet| packet.data[14..] == frame[14..], DEADLINE)?;
            }
            assert_eq!(capture.finish()?.len(), 2);
            assert!(rig.held_fragments()?.is_empty());
            Ok(())
        })?;
    }
    Ok(())
}
