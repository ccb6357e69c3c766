//! Migrating the flows of a datapath of another layout or size to new tables, without a packet in between.
//!
//! Programs that know both tables take the place of the former ones, and first only call these. From
//! [`Phase::Shared`] on they open new flows in the new tables, and the former ones are entered there one by
//! one, each from then on theirs. In the end nobody needs the former tables. All of it is pinned, so that
//! packets are served whenever this process dies, and another one goes on.

use std::path::{Path, PathBuf};

use aya::{
    maps::{Array, MapData, ProgramArray},
    programs::{ProgramError, TestRun as _, TestRunOptions},
};
use bytemuck::Zeroable as _;
use vnet_common::{
    flow::{self, Session, SessionCursor, Traffic},
    former, limits,
    migration::{self, Adoption, Phase},
    names::{self, map},
    network::Config,
};

use super::{
    Datapath, DatapathError, LoadOptions, grace,
    places::{self, Places},
    running::FormerProgram,
    session_memory::{SessionMemory, Words},
    tables,
};
use crate::object;

/// A test run wants a packet, if only an empty one.
const EMPTY_FRAME: [u8; 14] = [0; 14];
/// Looks at all former flows before it is left at that: each finds what was opened during the one before.
const LOOKS: u32 = 16;

/// A migration under way.
#[derive(Debug)]
pub struct Migration {
    /// Programs that know both tables.
    datapath: Datapath,
    pins: PathBuf,
    places: Places,
    layout: u32,
    former: SessionMemory,
    former_cursor: Cursor,
    sessions: SessionMemory,
    /// By former slot.
    adopted: Vec<Option<Adopted>>,
    outcome: Outcome,
}

/// How many slots of the former tables were ever used.
struct Cursor(Array<MapData, SessionCursor>);

impl std::fmt::Debug for Cursor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Cursor")
    }
}

impl Cursor {
    fn read(&self) -> Result<SessionCursor, DatapathError> {
        self.0.get(&0, 0).map_err(tables::failed(map::SESSION_CURSOR))
    }
}

/// A flow that has been entered.
#[derive(Debug, Clone, Copy)]
struct Adopted {
    generation: u32,
    /// In the new tables.
    slot: u32,
    /// As it was entered; `None` of flows that an earlier process has entered.
    state: Option<(u8, Traffic, Traffic)>,
}

/// What became of the flows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// They go on.
    pub migrated: u64,
    /// The new tables had no room for them.
    pub without_room: u64,
    /// Another flow had their external endpoint.
    pub in_conflict: u64,
}

impl Migration {
    /// Loads what is needed; packets notice nothing. Goes on with a migration that a process has left.
    ///
    /// `layout` is that of the former maps, `programs` are the former programs.
    pub fn begin(
        options: &LoadOptions,
        pins: &Path,
        layout: u32,
        programs: &[FormerProgram],
    ) -> Result<Self, DatapathError> {
        let places = Places::of(pins);
        let phase = places.phase()?.unwrap_or(Phase::Preparing);
        let failed = |error: std::io::Error| places::failed(&places.next, &error);
        if phase == Phase::Preparing {
            places.forget().map_err(failed)?;
        }
        places.share_maps().map_err(failed)?;
        places::mark(&places.next, object::layout()).map_err(failed)?;
        let mut datapath = Datapath::load_for_migration(options, &places)?;
        let former_config: Array<_, Config> = open(&places.maps, map::CONFIG)?;
        let former_config = former_config.get(&0, 0).map_err(tables::failed(map::CONFIG))?;
        let session_limit = datapath.config.session_limit;
        datapath.config = Config { session_limit, ..former_config };
        let former_cursor = Cursor(open(&places.maps, map::SESSION_CURSOR)?);
        if phase == Phase::Preparing {
            datapath.write_config()?;
            let ended = former_cursor.read()?.ended;
            let mut cursor: Array<_, SessionCursor> = datapath.map(map::SESSION_CURSOR)?;
            cursor
                .set(0, SessionCursor { ended, ..SessionCursor::zeroed() }, 0)
                .map_err(tables::failed(map::SESSION_CURSOR))?;
            let mut array: ProgramArray<_> = datapath.map(map::FORMER_PROGRAMS)?;
            for (place, program) in programs {
                array.set(*place, program, 0).map_err(tables::failed(map::FORMER_PROGRAMS))?;
            }
        }
        let former = memory_of(&places.maps, false)?;
        let sessions = memory_of(&places.next, true)?;
        let adopted = vec![None; former.slots];
        let outcome = Outcome::default();
        let pins = pins.to_owned();
        Ok(Self {
            datapath,
            pins,
            places,
            layout,
            former,
            former_cursor,
            sessions,
            adopted,
            outcome,
        })
    }

    /// The programs to attach in the place of the former ones.
    pub fn datapath(&mut self) -> &mut Datapath {
        &mut self.datapath
    }

    /// Enters a phase unless it is past, and waits until no packet is in an earlier one.
    pub fn enter(&mut self, phase: Phase) -> Result<(), DatapathError> {
        let mut word: Array<_, u32> = self.datapath.map(map::MIGRATION)?;
        let failed = || tables::failed(map::MIGRATION);
        if Phase::from_word(word.get(&0, 0).map_err(failed())?) < phase {
            word.set(0, phase as u32, 0).map_err(failed())?;
        }
        grace::wait_for_running_programs();
        Ok(())
    }

    /// Enters the former flows in the new tables, until there are none that are not.
    pub fn adopt(&mut self) -> Result<(), DatapathError> {
        for _ in 0..LOOKS {
            if self.adopt_found()? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Returns how many flows were not entered before, and are now.
    fn adopt_found(&mut self) -> Result<u64, DatapathError> {
        let used = self.former_cursor.read()?.fresh.min(self.former.slots as u64) as usize;
        let mut found = 0;
        // They are tried again.
        self.outcome.without_room = 0;
        let mut batch = Vec::with_capacity(limits::ADOPTIONS as usize);
        // Held-down ports take the room that live flows leave.
        for wanted in [flow::Phase::Live, flow::Phase::HoldDown] {
            for slot in 0..used {
                let held = self.former.held(slot).filter(|(phase, _)| *phase == wanted);
                let Some(session) = held.and_then(|(_, words)| self.session(words)) else {
                    continue;
                };
                let known = self.adopted.get(slot).copied().flatten();
                // One that has ended since it was entered ends there as well.
                if known.is_some_and(|known| known.generation == session.generation) {
                    continue;
                }
                batch.push((slot, session));
                if batch.len() == limits::ADOPTIONS as usize {
                    found += self.adopt_batch(&mut batch)?;
                }
            }
            found += self.adopt_batch(&mut batch)?;
        }
        Ok(found)
    }

    /// Returns how many of them need not be tried again.
    fn adopt_batch(&mut self, batch: &mut Vec<(usize, Session)>) -> Result<u64, DatapathError> {
        let mut adoptions: Array<_, Adoption> = self.datapath.map(map::ADOPTIONS)?;
        for (index, (_, session)) in (0..).zip(batch.iter()) {
            let wanted = Adoption { session: *session, outcome: migration::WANTED, slot: 0 };
            adoptions.set(index, wanted, 0).map_err(tables::failed(map::ADOPTIONS))?;
        }
        self.run_adopt()?;
        let adoptions: Array<_, Adoption> = self.datapath.map(map::ADOPTIONS)?;
        let mut settled = 0;
        for (index, (former, session)) in (0..).zip(batch.drain(..)) {
            let adoption = adoptions.get(&index, 0).map_err(tables::failed(map::ADOPTIONS))?;
            let is_live = session.phase == flow::Phase::Live as u32;
            match adoption.outcome {
                migration::NO_ROOM if is_live => self.outcome.without_room += 1,
                migration::CONFLICT => self.outcome.in_conflict += 1,
                _ if is_live => self.outcome.migrated += 1,
                _ => {}
            }
            if adoption.outcome == migration::NO_ROOM {
                continue;
            }
            settled += 1;
            let is_new = is_live && adoption.outcome == migration::ADOPTED;
            let state = is_new.then_some((session.state, session.outbound, session.inbound));
            if let Some(entry) = self.adopted.get_mut(former) {
                let (generation, slot) = (session.generation, adoption.slot);
                *entry = Some(Adopted { generation, slot, state });
            }
        }
        Ok(settled)
    }

    fn run_adopt(&mut self) -> Result<(), DatapathError> {
        loop {
            let options =
                TestRunOptions { data_in: Some(&EMPTY_FRAME), ..TestRunOptions::default() };
            match self.datapath.classifier(names::program::ADOPT)?.test_run(options) {
                // A signal has come in between.
                Err(ProgramError::SyscallError(error))
                    if error.io_error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => return Err(DatapathError::Adopt(error)),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Adds what the former programs have counted of flows after these were entered. Comes after
    /// [`Phase::Done`].
    pub fn settle(&mut self) {
        for (slot, adopted) in self.adopted.iter().enumerate() {
            let Some(Adopted { generation, slot: new, state: Some(state) }) = *adopted else {
                continue;
            };
            let Some((_, words)) = self.former.held(slot) else { continue };
            let former = self.session(words).filter(|session| session.generation == generation);
            let Some(former) = former else { continue };
            if (former.state, former.outbound, former.inbound) != state {
                let _ = settle(&self.sessions, new as usize, &former, state);
            }
        }
    }

    /// Puts the new maps in the place of the former ones; the programs that are attached hold these until
    /// others take their place. These are pinned before: nobody else knows the maps if the process dies.
    pub fn commit(mut self) -> Result<Outcome, DatapathError> {
        self.datapath.pin_programs(&self.pins)?;
        let maps = &self.places.maps;
        self.places.commit().map_err(|error| places::failed(maps, &error))?;
        Ok(self.outcome)
    }

    fn session(&self, words: Words) -> Option<Session> {
        former::session(self.layout, bytemuck::cast(words))
    }
}

/// How many live flows the maps in a directory have.
///
/// # Errors
/// Why they cannot be read.
pub fn open_flows(maps: &Path) -> Result<u32, String> {
    let count = || {
        let cursor = Cursor(open(maps, map::SESSION_CURSOR)?).read()?;
        let memory = memory_of(maps, false)?;
        let used = cursor.fresh.min(memory.slots as u64) as usize;
        let is_live =
            |slot: &usize| memory.held(*slot).is_some_and(|(phase, _)| phase == flow::Phase::Live);
        Ok((0..used).filter(is_live).count())
    };
    let count = count().map_err(|error: DatapathError| error.to_string())?;
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Words of a [`Session`].
const fn word_at(offset: usize) -> usize {
    offset / size_of::<u64>()
}

/// Adds to a session what it lacks. `None` if it is another flow's by now.
fn settle(
    sessions: &SessionMemory,
    slot: usize,
    former: &Session,
    (state, outbound, inbound): (u8, Traffic, Traffic),
) -> Option<()> {
    use std::{mem::offset_of, sync::atomic::Ordering::Relaxed};

    let (_, words) = sessions.held(slot)?;
    let session: Session = bytemuck::cast(words);
    let key = |session: &Session| (session.outbound_key_ipv6(), session.inbound_key_ipv6());
    if key(&session) != key(former) {
        return None;
    }
    let traffic = [
        (offset_of!(Session, outbound), former.outbound, outbound),
        (offset_of!(Session, inbound), former.inbound, inbound),
    ];
    for (offset, now, then) in traffic {
        let word = word_at(offset);
        sessions.word(slot, word)?.fetch_add(now.packets.wrapping_sub(then.packets), Relaxed);
        sessions.word(slot, word + 1)?.fetch_add(now.bytes.wrapping_sub(then.bytes), Relaxed);
    }
    let times = [
        (offset_of!(Session, last_outbound), former.last_outbound),
        (offset_of!(Session, last_inbound), former.last_inbound),
    ];
    for (offset, time) in times {
        sessions.word(slot, word_at(offset))?.fetch_max(time, Relaxed);
    }
    // What packets have made of it meanwhile is newer.
    if former.state != state && session.state == state {
        const STATE: usize = offset_of!(Session, state);
        let word = sessions.word(slot, word_at(STATE))?;
        let _ = word.fetch_update(Relaxed, Relaxed, |value| {
            let mut bytes = value.to_ne_bytes();
            let byte = bytes.get_mut(STATE % size_of::<u64>())?;
            (*byte == state).then(|| *byte = former.state)?;
            Some(u64::from_ne_bytes(bytes))
        });
    }
    Some(())
}

/// Opens an array by its pin.
fn open<V: aya::Pod>(
    directory: &Path,
    name: &'static str,
) -> Result<Array<MapData, V>, DatapathError> {
    let data = pinned(directory, name)?;
    Array::try_from(aya::maps::Map::Array(data)).map_err(tables::failed(name))
}

fn pinned(directory: &Path, name: &'static str) -> Result<MapData, DatapathError> {
    MapData::from_pin(directory.join(name)).map_err(tables::failed(name))
}

fn memory_of(directory: &Path, is_written: bool) -> Result<SessionMemory, DatapathError> {
    let data = pinned(directory, map::SESSIONS)?;
    let info = data.info().map_err(tables::failed(map::SESSIONS))?;
    let memory = SessionMemory::new(data.fd(), info.max_entries(), is_written);
    memory.map_err(|error| places::failed(directory, &error))
}
