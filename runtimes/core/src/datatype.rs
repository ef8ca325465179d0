//! The fourteen tensor datatypes of the Open Inference Protocol.

use std::fmt;
use std::str::FromStr;

/// Element type of a tensor, named as on the wire (protocols.md §1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Datatype {
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned, 1 byte.
    Uint8,
    /// Unsigned, 2 bytes.
    Uint16,
    /// Unsigned, 4 bytes.
    Uint32,
    /// Unsigned, 8 bytes.
    Uint64,
    /// Signed, 1 byte.
    Int8,
    /// Signed, 2 bytes.
    Int16,
    /// Signed, 4 bytes.
    Int32,
    /// Signed, 8 bytes.
    Int64,
    /// IEEE 754 half precision.
    Fp16,
    /// IEEE 754 single precision.
    Fp32,
    /// IEEE 754 double precision.
    Fp64,
    /// Variable length: per element a u32 little-endian length, then that many bytes.
    Bytes,
    /// Brain floating point: the upper half of an FP32 (a Triton addition).
    Bf16,
}

impl Datatype {
    /// Every datatype, in the order of Triton's `DataType` enum (number 1 comes first).
    pub const ALL: [Datatype; 14] = [
        Datatype::Bool,
        Datatype::Uint8,
        Datatype::Uint16,
        Datatype::Uint32,
        Datatype::Uint64,
        Datatype::Int8,
        Datatype::Int16,
        Datatype::Int32,
        Datatype::Int64,
        Datatype::Fp16,
        Datatype::Fp32,
        Datatype::Fp64,
        Datatype::Bytes,
        Datatype::Bf16,
    ];

    /// Bytes per element, or `None` for [`Datatype::Bytes`], whose elements have a length of their own.
    pub const fn width(self) -> Option<usize> {
        match self {
            Datatype::Bool | Datatype::Uint8 | Datatype::Int8 => Some(1),
            Datatype::Uint16 | Datatype::Int16 | Datatype::Fp16 | Datatype::Bf16 => Some(2),
            Datatype::Uint32 | Datatype::Int32 | Datatype::Fp32 => Some(4),
            Datatype::Uint64 | Datatype::Int64 | Datatype::Fp64 => Some(8),
            Datatype::Bytes => None,
        }
    }

    /// The name used on the wire, such as `FP32`.
    pub const fn wire_name(self) -> &'static str {
        match self {
            Datatype::Bool => "BOOL",
            Datatype::Uint8 => "UINT8",
            Datatype::Uint16 => "UINT16",
            Datatype::Uint32 => "UINT32",
            Datatype::Uint64 => "UINT64",
            Datatype::Int8 => "INT8",
            Datatype::Int16 => "INT16",
            Datatype::Int32 => "INT32",
            Datatype::Int64 => "INT64",
            Datatype::Fp16 => "FP16",
            Datatype::Fp32 => "FP32",
            Datatype::Fp64 => "FP64",
            Datatype::Bytes => "BYTES",
            Datatype::Bf16 => "BF16",
        }
    }

    /// The name in Triton's model configuration, such as `TYPE_FP32` (`TYPE_STRING` for BYTES).
    pub const fn config_name(self) -> &'static str {
        match self {
            Datatype::Bool => "TYPE_BOOL",
            Datatype::Uint8 => "TYPE_UINT8",
            Datatype::Uint16 => "TYPE_UINT16",
            Datatype::Uint32 => "TYPE_UINT32",
            Datatype::Uint64 => "TYPE_UINT64",
            Datatype::Int8 => "TYPE_INT8",
            Datatype::Int16 => "TYPE_INT16",
            Datatype::Int32 => "TYPE_INT32",
            Datatype::Int64 => "TYPE_INT64",
            Datatype::Fp16 => "TYPE_FP16",
            Datatype::Fp32 => "TYPE_FP32",
            Datatype::Fp64 => "TYPE_FP64",
            Datatype::Bytes => "TYPE_STRING",
            Datatype::Bf16 => "TYPE_BF16",
        }
    }

    /// The number in Triton's `DataType` enum (0 is `TYPE_INVALID`, so numbers start at 1).
    pub const fn config_number(self) -> i32 {
        match self {
            Datatype::Bool => 1,
            Datatype::Uint8 => 2,
            Datatype::Uint16 => 3,
            Datatype::Uint32 => 4,
            Datatype::Uint64 => 5,
            Datatype::Int8 => 6,
            Datatype::Int16 => 7,
            Datatype::Int32 => 8,
            Datatype::Int64 => 9,
            Datatype::Fp16 => 10,
            Datatype::Fp32 => 11,
            Datatype::Fp64 => 12,
            Datatype::Bytes => 13,
            Datatype::Bf16 => 14,
        }
    }

    /// The datatype with this [`config_name`](Self::config_name), if any.
    pub fn from_config_name(name: &str) -> Option<Datatype> {
        Self::ALL
            .into_iter()
            .find(|datatype| datatype.config_name() == name)
    }

    /// The datatype with this [`config_number`](Self::config_number), if any.
    pub fn from_config_number(number: i32) -> Option<Datatype> {
        Self::ALL
            .into_iter()
            .find(|datatype| datatype.config_number() == number)
    }
}

impl fmt::Display for Datatype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.wire_name())
    }
}

/// A datatype name that the protocol does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown datatype `{0}`; expected one of BOOL, UINT8..UINT64, INT8..INT64, FP16, FP32, FP64, BF16, BYTES"
)]
pub struct UnknownDatatype(pub String);

impl FromStr for Datatype {
    type Err = UnknownDatatype;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|datatype| datatype.wire_name() == name)
            .ok_or_else(|| UnknownDatatype(name.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_and_number_reads_back() {
        for datatype in Datatype::ALL {
            assert_eq!(datatype.wire_name().parse(), Ok(datatype));
            assert_eq!(Datatype::from_config_name(datatype.config_name()), Some(datatype));
            assert_eq!(
                Datatype::from_config_number(datatype.config_number()),
                Some(datatype)
            );
        }
        assert_eq!(Datatype::from_config_number(0), None);
        assert!("fp32".parse::<Datatype>().is_err());
    }
}
