//! Results of BPF functions, which return one word: a value, or why there is none.

use vnet_common::reason::DropReason;

/// Above every 32-bit value; the reason's number lies below.
const REFUSED: u64 = 1 << 32;

#[inline(always)]
pub fn encode(result: Result<u32, DropReason>) -> u64 {
    match result {
        Ok(value) => u64::from(value),
        Err(reason) => REFUSED | reason as u64,
    }
}

/// The value; a reason that the functions here can give, any other as a full table.
#[inline(always)]
pub fn decode(word: u64) -> Result<u32, DropReason> {
    if word & REFUSED == 0 {
        return Ok(word as u32);
    }
    Err(match word as u32 {
        reason if reason == DropReason::PortsExhausted as u32 => DropReason::PortsExhausted,
        reason if reason == DropReason::GuestFlowLimit as u32 => DropReason::GuestFlowLimit,
        reason if reason == DropReason::GuestFlowRate as u32 => DropReason::GuestFlowRate,
        reason if reason == DropReason::NetworkFlowLimit as u32 => DropReason::NetworkFlowLimit,
        reason if reason == DropReason::FlowConflict as u32 => DropReason::FlowConflict,
        _ => DropReason::FlowTableFull,
    })
}
