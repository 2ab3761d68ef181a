//! Checks of foreign bytes that claim to be weights or deltas, without building a tensor.
//!
//! The format is raw little-endian f32, the parameters in the net's order, and nothing else.

/// The largest magnitude of a delta's value (docs/protocol.md, section 14).
pub const DELTA_MAX: f32 = 16.0;

/// What is wrong with the bytes of a model or a delta.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum WeightsError {
    /// Not 4 bytes a parameter.
    #[error("{found} bytes, expected {expected} (4 a parameter): it belongs to another net")]
    WrongLength {
        /// Bytes that the net needs.
        expected: usize,
        /// Bytes there are.
        found: usize,
    },
    /// A NaN or an infinity.
    #[error("the value {index} is not finite")]
    NotFinite {
        /// Its index among the parameters, from 0.
        index: usize,
    },
    /// A value is out of its range.
    #[error("the value {index} is {value}: a delta's lies within ±{DELTA_MAX}, a second moment is not below 0")]
    OutOfRange {
        /// Its index among the parameters, from 0.
        index: usize,
        /// The value there.
        value: f32,
    },
}

/// Checks a model's bytes: the length, and that every value is finite.
pub fn check_weights(bytes: &[u8], parameter_count: usize) -> Result<(), WeightsError> {
    check_length(bytes, parameter_count)?;
    match first_not(bytes, f32::is_finite) {
        Some((index, _)) => Err(WeightsError::NotFinite { index }),
        None => Ok(()),
    }
}

/// Checks a delta's bytes: the length, and that every value is finite and within ±16.
pub fn check_delta(bytes: &[u8], parameter_count: usize) -> Result<(), WeightsError> {
    check_length(bytes, parameter_count)?;
    // NaN compares false, so it is found here too.
    match first_not(bytes, |value| value.abs() <= DELTA_MAX) {
        Some((index, value)) if value.is_finite() => Err(WeightsError::OutOfRange { index, value }),
        Some((index, _)) => Err(WeightsError::NotFinite { index }),
        None => Ok(()),
    }
}

fn check_length(bytes: &[u8], parameter_count: usize) -> Result<(), WeightsError> {
    let expected = parameter_count.saturating_mul(4);
    if bytes.len() == expected { Ok(()) } else { Err(WeightsError::WrongLength { expected, found: bytes.len() }) }
}

/// The first value that is not as it should be, with its index. Block by block: within one, nothing hangs on what was found
/// so far, and vector units compare many at a time.
pub(crate) fn first_not(bytes: &[u8], is_right: impl Fn(f32) -> bool) -> Option<(usize, f32)> {
    const BLOCK: usize = 1024;
    let blocks = bytes.chunks(4 * BLOCK).enumerate();
    let mut wrong = blocks.filter(|(_, block)| !values(block).fold(true, |all, value| all & is_right(value)));
    let (number, block) = wrong.next()?;
    values(block).enumerate().find(|(_, value)| !is_right(*value)).map(|(i, value)| (number * BLOCK + i, value))
}

/// The values of bytes whose length is a multiple of four.
pub(crate) fn values(bytes: &[u8]) -> impl ExactSizeIterator<Item = f32> + '_ {
    bytes.chunks_exact(4).map(|chunk| f32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn wrong_lengths_are_named() {
        assert_eq!(check_weights(&[0; 7], 2), Err(WeightsError::WrongLength { expected: 8, found: 7 }));
        assert_eq!(check_delta(&[0; 12], 2), Err(WeightsError::WrongLength { expected: 8, found: 12 }));
        assert!(check_weights(&[0; 8], usize::MAX).is_err());
    }

    #[test]
    fn values_that_are_not_finite_are_named() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(check_weights(&bytes(&[0.0, bad]), 2), Err(WeightsError::NotFinite { index: 1 }));
            assert_eq!(check_delta(&bytes(&[0.0, bad]), 2), Err(WeightsError::NotFinite { index: 1 }));
        }
    }

    #[test]
    fn the_first_wrong_value_of_many_is_named() {
        let mut many = vec![1.0f32; 5_000];
        (many[2_047], many[4_999]) = (-17.0, f32::NAN);
        assert_eq!(check_delta(&bytes(&many), 5_000), Err(WeightsError::OutOfRange { index: 2_047, value: -17.0 }));
        assert_eq!(check_weights(&bytes(&many), 5_000), Err(WeightsError::NotFinite { index: 4_999 }));
    }

    #[test]
    fn a_delta_reaches_sixteen_and_no_further() {
        assert_eq!(check_delta(&bytes(&[16.0, -16.0]), 2), Ok(()));
        let value = 16.000_002;
        assert_eq!(check_delta(&bytes(&[0.0, value]), 2), Err(WeightsError::OutOfRange { index: 1, value }));
        assert_eq!(check_weights(&bytes(&[0.0, value]), 2), Ok(()));
    }
}
