//! Facts about policy.
