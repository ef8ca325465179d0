//! Capacity: the highest rate that holds an objective.

pub mod search;
