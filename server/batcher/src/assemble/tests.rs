//! Facts about assemble.
