//! The wire form of BYTES tensors: per element a u32 little-endian length, then the bytes.

/// Where the framing of a BYTES tensor breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// A length prefix or an element runs past the end.
    #[error("element {element} runs past the end of the data ({available} bytes left)")]
    Truncated {
        /// Index of the element that is cut off.
        element: usize,
        /// Bytes left where it starts.
        available: usize,
    },
    /// Fewer or more elements than the shape has.
    #[error("{got} elements in the data, but the shape has {expected}")]
    Count {
        /// Elements by the shape.
        expected: usize,
        /// Elements found (at most one more than expected is counted).
        got: usize,
    },
}

/// Iterates over the elements of a BYTES tensor; stops after the first error.
#[derive(Debug, Clone)]
pub struct BytesElements<'a> {
    rest: &'a [u8],
    index: usize,
}

impl<'a> BytesElements<'a> {
    /// Reads `data`, the wire form of a BYTES tensor.
    pub fn new(data: &'a [u8]) -> Self {
        Self { rest: data, index: 0 }
    }

    /// Checks that `data` frames exactly `expected` elements and ends with the last.
    pub fn check(data: &'a [u8], expected: usize) -> Result<(), FramingError> {
        let mut got = 0;
        for element in Self::new(data) {
            element?;
            got += 1;
            if got > expected {
                break;
            }
        }
        if got == expected {
            Ok(())
        } else {
            Err(FramingError::Count { expected, got })
        }
    }

    /// Bytes not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for BytesElements<'a> {
    type Item = Result<&'a [u8], FramingError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let element = self.rest.split_first_chunk::<4>().and_then(|(prefix, rest)| {
            let len = usize::try_from(u32::from_le_bytes(*prefix)).ok()?;
            rest.split_at_checked(len)
        });
        let Some((element, rest)) = element else {
            let error = FramingError::Truncated {
                element: self.index,
                available: self.rest.len(),
            };
            self.rest = &[];
            return Some(Err(error));
        };
        self.rest = rest;
        self.index += 1;
        Some(Ok(element))
    }
}

/// Appends one element in wire form.
///
/// Panics if the element is longer than `u32::MAX` bytes, which no request limit allows.
pub fn push_element(out: &mut Vec<u8>, element: &[u8]) {
    let len = u32::try_from(element.len()).expect("elements are bounded by the request size limit");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(element);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn broken_framing_is_named() {
        assert_eq!(
            BytesElements::check(&[5, 0, 0, 0, 1], 1),
            Err(FramingError::Truncated {
                element: 0,
                available: 5
            })
        );
        assert_eq!(
            BytesElements::check(&[1, 0], 1),
            Err(FramingError::Truncated {
                element: 0,
                available: 2
            })
        );
        assert_eq!(
            BytesElements::check(&[0; 8], 1),
            Err(FramingError::Count { expected: 1, got: 2 })
        );
        assert_eq!(
            BytesElements::check(&[], 1),
            Err(FramingError::Count { expected: 1, got: 0 })
        );
        assert_eq!(BytesElements::check(&[], 0), Ok(()));
    }

    proptest! {
        #[test]
        fn elements_round_trip(elements: Vec<Vec<u8>>) {
            let mut data = Vec::new();
            elements.iter().for_each(|element| push_element(&mut data, element));
            let back: Result<Vec<_>, _> = BytesElements::new(&data).collect();
            prop_assert_eq!(back.unwrap(), elements.iter().map(Vec::as_slice).collect::<Vec<_>>());
            prop_assert_eq!(BytesElements::check(&data, elements.len()), Ok(()));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(data: Vec<u8>, expected in 0usize..10) {
            let walked = BytesElements::new(&data).filter_map(Result::ok).count();
            prop_assert_eq!(BytesElements::check(&data, expected).is_ok(), walked == expected && BytesElements::new(&data).all(|e| e.is_ok()));
        }
    }
}
