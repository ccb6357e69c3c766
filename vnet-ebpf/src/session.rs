//! A slot of the session array as the programs use it: fields by name, shared with other CPUs.

use core::{mem::offset_of, ptr::NonNull};

use vnet_common::{
    address::{Address, PortBe},
    flow::{self, Direction, FlowKey, FlowSlot, Phase, Session, Traffic},
    shortcut::{InboundWay, OutboundWay},
};

use crate::{atomic::SharedWord, ip::Ip, maps::SESSIONS};

/// A slot. All fields are plain integers that other CPUs may change at any time.
#[derive(Clone, Copy)]
pub struct SessionSlot {
    /// Non-null, so that an absent slot is a null pointer and never an undefined register.
    raw: NonNull<Session>,
}

macro_rules! fields {
    ($($name:ident, $set:ident: $kind:ty;)+) => {
        $(#[inline(always)]
        pub fn $name(self) -> $kind {
            // SAFETY: map memory outlives the program; the field is aligned plain data.
            unsafe { (&raw const (*self.raw.as_ptr()).$name).read_volatile() }
        }

        #[allow(dead_code, reason = "each field has both")]
        #[inline(always)]
        pub fn $set(self, value: $kind) {
            // SAFETY: map memory outlives the program; the field is aligned plain data.
            unsafe { (&raw mut (*self.raw.as_ptr()).$name).write_volatile(value) }
        })+
    };
}

impl SessionSlot {
    /// The slot at an index, whatever it is used for.
    #[inline(always)]
    pub fn at(index: u32) -> Option<Self> {
        SESSIONS.get_ptr_mut(index).and_then(NonNull::new).map(|raw| Self { raw })
    }

    /// A slot that a BPF function was given.
    #[inline(always)]
    pub fn from_raw(raw: *mut Session) -> Option<Self> {
        NonNull::new(raw).map(|raw| Self { raw })
    }

    /// For a BPF function.
    #[inline(always)]
    pub fn raw(self) -> *mut Session {
        self.raw.as_ptr()
    }

    /// The slot that an earlier step of this program has found: its index and one.
    #[inline(always)]
    pub fn known(word: u32) -> Option<Self> {
        Self::at(word.checked_sub(1)?)
    }

    /// The live session that a flow key led to.
    #[inline(always)]
    pub fn live(slot: FlowSlot) -> Option<Self> {
        let session = Self::at(slot.index)?;
        (session.generation() == slot.generation && session.phase() == Phase::Live as u32)
            .then_some(session)
    }

    fields! {
        phase, set_phase: u32;
        generation, set_generation: u32;
        epoch_outbound, set_epoch_outbound: u32;
        epoch_inbound, set_epoch_inbound: u32;
        bridge_ifindex, set_bridge_ifindex: u32;
        uplink_ifindex, set_uplink_ifindex: u32;
        protocol, set_protocol: u8;
        state, set_state: u8;
        flags, set_flags: u8;
        answered, set_answered: u8;
        network, set_network: u16;
        mtu_outbound, set_mtu_outbound: u16;
        mtu_inbound, set_mtu_inbound: u16;
        inside_port, set_inside_port: PortBe;
        external_port, set_external_port: PortBe;
        remote_port, set_remote_port: PortBe;
        next_hop, set_next_hop: Address;
        inside, set_inside: Address;
        external, set_external: Address;
        remote, set_remote: Address;
        last_outbound, set_last_outbound: u64;
        last_inbound, set_last_inbound: u64;
        since, set_since: u64;
    }

    /// The short way of outbound packets.
    #[inline(always)]
    pub fn way_outbound(self) -> OutboundWay {
        const _: () = assert!(offset_of!(Session, way_outbound) % 8 == 0);
        // SAFETY: map memory outlives the program; the two words are aligned.
        bytemuck::cast(unsafe { read_words((&raw const (*self.raw.as_ptr()).way_outbound).cast()) })
    }

    #[inline(always)]
    pub fn set_way_outbound(self, way: OutboundWay) {
        // SAFETY: as in `way_outbound`.
        unsafe {
            write_words((&raw mut (*self.raw.as_ptr()).way_outbound).cast(), bytemuck::cast(way));
        }
    }

    /// The short way of inbound packets.
    #[inline(always)]
    pub fn way_inbound(self) -> InboundWay {
        const _: () = assert!(offset_of!(Session, way_inbound) % 8 == 0);
        // SAFETY: map memory outlives the program; the two words are aligned.
        bytemuck::cast(unsafe { read_words((&raw const (*self.raw.as_ptr()).way_inbound).cast()) })
    }

    #[inline(always)]
    pub fn set_way_inbound(self, way: InboundWay) {
        // SAFETY: as in `way_inbound`.
        unsafe {
            write_words((&raw mut (*self.raw.as_ptr()).way_inbound).cast(), bytemuck::cast(way));
        }
    }

    /// Forgets both short ways.
    #[inline(always)]
    pub fn clear_ways(self) {
        self.set_way_outbound(OutboundWay::default());
        self.set_way_inbound(InboundWay::default());
    }

    /// Moves the slot from one phase to the next; `false` if somebody else was faster.
    #[inline(always)]
    pub fn advance(self, from: Phase, to: Phase) -> bool {
        // BPF compares and swaps 64 bits: the phase and, in the upper half, the generation.
        let tenant = u64::from(self.generation()) << 32;
        // SAFETY: map memory outlives the program; the two fields are one aligned word.
        let word = unsafe { SharedWord::new(self.raw.as_ptr().cast()) };
        word.replace(tenant | from as u64, tenant | to as u64)
    }

    /// The time of the last packet that keeps it alive: of a flow that the inside has not answered its
    /// beginning, whatever strangers send.
    #[inline(always)]
    pub fn last_refresh(self) -> u64 {
        if self.answered() == 0 {
            return self.last_outbound();
        }
        flow::last_refresh(self.protocol(), self.last_outbound(), self.last_inbound())
    }

    /// Notes that the inside has sent; whether that was noted before, for one caller alone not.
    #[inline(always)]
    pub fn note_answer(self) -> bool {
        const _: () = assert!(offset_of!(Session, protocol) % 8 == 0);
        const _: () = assert!(offset_of!(Session, answered) == offset_of!(Session, protocol) + 3);
        const ANSWERED: u64 = u64::from_ne_bytes([0, 0, 0, 1, 0, 0, 0, 0]);
        // SAFETY: map memory outlives the program; the eight bytes from the protocol on are aligned, and
        // stores to their neighbours leave each byte alone.
        let word = unsafe { SharedWord::new((&raw mut (*self.raw.as_ptr()).protocol).cast()) };
        word.fetch_or(ANSWERED) & ANSWERED != 0
    }

    /// Adds one packet to the account of a direction.
    #[inline(always)]
    pub fn count(self, direction: Direction, bytes: u32) {
        // SAFETY: map memory outlives the program.
        let (packets, total) = unsafe {
            let traffic = match direction {
                Direction::Outbound => &raw mut (*self.raw.as_ptr()).outbound,
                Direction::Inbound => &raw mut (*self.raw.as_ptr()).inbound,
            };
            (
                SharedWord::new(&raw mut (*traffic).packets),
                SharedWord::new(&raw mut (*traffic).bytes),
            )
        };
        packets.add(1);
        total.add(u64::from(bytes));
    }

    /// Whether a packet from the inside has been counted.
    #[inline(always)]
    pub fn has_sent(self) -> bool {
        // SAFETY: map memory outlives the program; the field is aligned plain data.
        unsafe { (&raw const (*self.raw.as_ptr()).outbound.packets).read_volatile() != 0 }
    }

    /// Sets both accounts to zero.
    #[inline(always)]
    pub fn clear_traffic(self) {
        // SAFETY: map memory outlives the program; the slot is being filled by this program alone.
        unsafe {
            (&raw mut (*self.raw.as_ptr()).outbound).write_volatile(bytemuck::Zeroable::zeroed());
            (&raw mut (*self.raw.as_ptr()).inbound).write_volatile(bytemuck::Zeroable::zeroed());
        }
    }

    /// Sets both accounts.
    #[inline(always)]
    pub fn set_traffic(self, outbound: Traffic, inbound: Traffic) {
        // SAFETY: as in `clear_traffic`.
        unsafe {
            (&raw mut (*self.raw.as_ptr()).outbound).write_volatile(outbound);
            (&raw mut (*self.raw.as_ptr()).inbound).write_volatile(inbound);
        }
    }

    /// The key of the flow in one direction.
    #[inline(always)]
    pub fn key<V: Ip>(self, direction: Direction) -> FlowKey<V::Address> {
        let remote = (V::narrow(self.remote()), self.remote_port());
        match direction {
            Direction::Outbound => {
                let inside = (V::narrow(self.inside()), self.inside_port());
                FlowKey::outbound(self.protocol(), inside, remote)
            }
            Direction::Inbound => {
                let external = (V::narrow(self.external()), self.external_port());
                FlowKey::inbound(self.protocol(), remote, external)
            }
        }
    }
}

/// Reads a way; none while another CPU writes it.
///
/// # Safety
///
/// `raw` must point to two aligned words of map memory.
#[inline(always)]
unsafe fn read_words(raw: *const u64) -> [u64; 2] {
    // SAFETY: the caller vouches for the words.
    let (first, second, again) =
        unsafe { (raw.read_volatile(), raw.add(1).read_volatile(), raw.read_volatile()) };
    if first == again { [first, second] } else { [0; 2] }
}

/// # Safety
///
/// As [`read_words`].
#[inline(always)]
unsafe fn write_words(raw: *mut u64, [first, second]: [u64; 2]) {
    // SAFETY: the caller vouches for the words. The time is in the first one: none until both are there.
    unsafe {
        raw.write_volatile(0);
        raw.add(1).write_volatile(second);
        raw.write_volatile(first);
    }
}
