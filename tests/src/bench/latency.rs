//! Round trips of a small datagram between a guest and its outside, alone and beside another guest's traffic.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    progress,
    report::{Figure, Unit, quantile},
    site::{
        Base, Flows, Forwarding, GENERATES, Layout, Load, Noise, Site, Way, bind, cpus_suffice,
        run_first,
    },
    turns::Turns,
};

const SERVER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1)), 7);
/// Round trips in a round, unless the time is over before.
const TRIPS: usize = 10_000;
const TIME: Duration = Duration::from_secs(2);
/// How long it is measured what nft forwards.
const PROBE: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_millis(100);
const WANTED: [Forwarding; 5] = [
    Forwarding::Plain,
    Forwarding::Masquerade,
    Forwarding::LongWays,
    Forwarding::Vnet,
    Forwarding::Xdp,
];
/// The share of trips that are not slower.
const MOST: f64 = 0.999;

pub(super) fn measure(rounds: usize) -> Result<(Vec<Figure>, Vec<String>)> {
    cpus_suffice()?;
    let rate = rate_of_masquerade()? / 2.0;
    let mut sites = Vec::new();
    for forwarding in WANTED {
        let layout = Layout::of(forwarding);
        let mut base = Base::with_threads(&layout)?;
        let noise = Noise::beside(&mut base)?;
        sites.push((forwarding, base, noise));
    }
    let mut figures = Vec::new();
    for (is_busy, when) in
        [(false, "without other traffic"), (true, "beside half of the rate of nft")]
    {
        let mut trips = Turns::new(&WANTED);
        for round in 0..rounds {
            progress(&format!("latency, {when}: round {}", round + 1));
            for (of, base, noise) in &mut sites {
                let times = if is_busy {
                    noise.beside_traffic(rate, || round_trips(base))?
                } else {
                    round_trips(base)?
                };
                trips.push(*of, [0.5, MOST].map(|share| quantile(&times, share)));
            }
        }
        for (place, what) in ["median", "99.9 %"].into_iter().enumerate() {
            let topic = format!("round trip, {what}, {when}");
            figures.extend(trips.compared(&topic, Unit::Nanoseconds, |trip| trip[place]));
        }
    }
    sites.into_iter().try_for_each(|(_, base, _)| base.finish())?;
    Ok((figures, vec![format!("The other traffic: {rate:.0} packets of 64 bytes in a second.")]))
}

fn rate_of_masquerade() -> Result<f64> {
    let mut site = Site::new(Layout::of(Forwarding::Masquerade))?;
    let sample = site.measure(Way::Out, Flows::of_one_guest(256), Load::For(PROBE))?;
    site.finish()?;
    Ok(sample.rate)
}

/// Nanoseconds of each.
fn round_trips(base: &Base) -> Result<Vec<f64>> {
    let ends = AtomicBool::new(false);
    let (server, client) = (
        base.outside.enter(|| UdpSocket::bind(SERVER))??,
        base.guest()?.enter(|| UdpSocket::bind("10.64.0.10:0"))??,
    );
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(PATIENCE))?;
    }
    client.connect(SERVER)?;
    thread::scope(|scope| {
        let echo = scope.spawn(|| -> Result<()> {
            come_first()?;
            let mut datagram = [0; 64];
            while !ends.load(Ordering::Relaxed) {
                // Nothing has come in time.
                let Ok((length, from)) = server.recv_from(&mut datagram) else { continue };
                server.send_to(&datagram[..length], from)?;
            }
            Ok(())
        });
        let trips = scope.spawn(|| trips(&client));
        let trips = trips.join().ok().context("the client has panicked");
        ends.store(true, Ordering::Relaxed);
        echo.join().ok().context("the server has panicked")??;
        trips?
    })
}

fn trips(client: &UdpSocket) -> Result<Vec<f64>> {
    const WARM_UP: usize = 100;
    come_first()?;
    let mut times = Vec::with_capacity(TRIPS);
    let mut lost = 0;
    let begin = Instant::now();
    for number in 0..WARM_UP + TRIPS {
        let sent = Instant::now();
        client.send(&(number as u64).to_ne_bytes())?;
        let mut answer = [0; 64];
        // One that was lost may have been late: it is passed by.
        let received = loop {
            match client.recv(&mut answer) {
                Ok(_) if answer[..8] == (number as u64).to_ne_bytes() => break true,
                Ok(_) => {}
                Err(_) => break false,
            }
        };
        if !received {
            lost += 1;
        } else if number >= WARM_UP {
            times.push(sent.elapsed().as_secs_f64() * 1e9);
        }
        if begin.elapsed() > TIME {
            break;
        }
    }
    ensure!(lost * 100 <= times.len(), "{lost} of {} datagrams were lost", times.len() + lost);
    Ok(times)
}

/// Binds the thread to the CPU that does not forward, before all that wants to run there.
fn come_first() -> Result<()> {
    bind(0, GENERATES)?;
    run_first(10)
}
