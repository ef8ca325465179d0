//! Shapes of tensors, and what a signature says about them.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use smallvec::SmallVec;

/// Dimensions of a tensor that exists: none negative, any may be 0; no dimensions is a scalar.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Shape(SmallVec<[usize; 6]>);

impl Shape {
    /// The shape of a scalar: no dimensions, one element.
    pub fn scalar() -> Self {
        Self::default()
    }

    /// Product of the dimensions, 1 for a scalar; `None` if it does not fit.
    pub fn element_count(&self) -> Option<usize> {
        self.0
            .iter()
            .try_fold(1usize, |product, &dim| product.checked_mul(dim))
    }

    /// Size of dimension 0, or 1 for a scalar.
    pub fn rows(&self) -> usize {
        self.0.first().copied().unwrap_or(1)
    }

    /// The same shape with dimension 0 replaced.
    ///
    /// Panics if the shape is a scalar.
    pub fn with_rows(&self, rows: usize) -> Self {
        let mut dims = self.0.clone();
        dims[0] = rows;
        Self(dims)
    }
}

impl Deref for Shape {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.0
    }
}

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Self {
        Self(SmallVec::from_slice(dims))
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Self {
        Self(SmallVec::from_slice(&dims))
    }
}

impl FromIterator<usize> for Shape {
    fn from_iter<I: IntoIterator<Item = usize>>(dims: I) -> Self {
        Self(dims.into_iter().collect())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_dims(f, self.0.iter())
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One dimension as a signature gives it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Dim {
    /// Exactly this size.
    Fixed(usize),
    /// Any size.
    Any,
    /// Any size, the same wherever the model uses the name; `−1` on the wire.
    Named(Arc<str>),
}

impl Dim {
    /// Whether a tensor may have `size` here, looking at this dimension alone.
    pub fn accepts(&self, size: usize) -> bool {
        match self {
            Dim::Fixed(fixed) => *fixed == size,
            Dim::Any | Dim::Named(_) => true,
        }
    }

    /// The size if it is fixed.
    pub fn fixed(&self) -> Option<usize> {
        match self {
            Dim::Fixed(size) => Some(*size),
            Dim::Any | Dim::Named(_) => None,
        }
    }

    /// As metadata writes it: −1 for a variable dimension.
    pub fn wire(&self) -> i64 {
        self.fixed()
            .map_or(-1, |size| i64::try_from(size).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(size) => write!(f, "{size}"),
            Dim::Any => f.write_str("-1"),
            Dim::Named(name) => write!(f, "-1 ({name})"),
        }
    }
}

/// The shapes that a signature allows: one [`Dim`] per dimension.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct ShapeSpec(pub Vec<Dim>);

impl ShapeSpec {
    /// Whether `shape` has this rank and every dimension is accepted.
    pub fn accepts(&self, shape: &[usize]) -> bool {
        self.0.len() == shape.len() && self.0.iter().zip(shape).all(|(dim, &size)| dim.accepts(size))
    }

    /// The shape, if no dimension is variable.
    pub fn fixed(&self) -> Option<Shape> {
        self.0.iter().map(Dim::fixed).collect()
    }

    /// As metadata writes it: −1 for a variable dimension.
    pub fn wire(&self) -> Vec<i64> {
        self.0.iter().map(Dim::wire).collect()
    }
}

impl Deref for ShapeSpec {
    type Target = [Dim];

    fn deref(&self) -> &[Dim] {
        &self.0
    }
}

impl From<&[i64]> for ShapeSpec {
    /// Negative numbers are variable dimensions.
    fn from(dims: &[i64]) -> Self {
        Self(
            dims.iter()
                .map(|&dim| usize::try_from(dim).map_or(Dim::Any, Dim::Fixed))
                .collect(),
        )
    }
}

impl FromIterator<Dim> for ShapeSpec {
    fn from_iter<I: IntoIterator<Item = Dim>>(dims: I) -> Self {
        Self(dims.into_iter().collect())
    }
}

impl fmt::Display for ShapeSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_dims(f, self.0.iter())
    }
}

impl fmt::Debug for ShapeSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn fmt_dims<T: fmt::Display>(f: &mut fmt::Formatter<'_>, dims: impl Iterator<Item = T>) -> fmt::Result {
    f.write_str("[")?;
    for (k, dim) in dims.enumerate() {
        if k > 0 {
            f.write_str(",")?;
        }
        write!(f, "{dim}")?;
    }
    f.write_str("]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn element_counts_are_checked() {
        assert_eq!(Shape::scalar().element_count(), Some(1));
        assert_eq!(Shape::from([2, 0, 3]).element_count(), Some(0));
        assert_eq!(Shape::from([usize::MAX, 2]).element_count(), None);
    }

    #[test]
    fn specs_accept_by_rank_and_fixed_sizes() {
        let spec = ShapeSpec::from(&[-1, 3][..]);
        assert!(spec.accepts(&[0, 3]));
        assert!(!spec.accepts(&[1, 4]));
        assert!(!spec.accepts(&[3]));
        assert_eq!(spec.to_string(), "[-1,3]");
        assert_eq!(spec.fixed(), None);
    }
}
