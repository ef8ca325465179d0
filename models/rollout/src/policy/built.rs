//! What of the design exists: a policy that asks for more is refused, not half obeyed.

use std::collections::BTreeSet;

/// A part of the design that a preset or a policy can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Element {
    /// The artifact's digest must be pinned.
    PinnedDigest,
    /// The artifact must be signed.
    Signature,
    /// Golden rows.
    GoldenGate,
    /// Golden rows in a Parquet file, rather than in pairs of JSON files.
    GoldenTable,
    /// Golden rows put to the live version again from time to time.
    GoldenInterval,
    /// A sudden drop of quality (G1).
    QualityGate,
    /// Slow degradation (G2).
    TrendGate,
    /// The gates per slice.
    SliceGate,
    /// Latency and memory before traffic.
    PerformanceGate,
    /// Limits on the memory of a device.
    DeviceMemory,
    /// Copies of requests.
    Shadow,
    /// Counting differing decisions in shadow.
    Flips,
    /// The distribution of an output.
    OutputDistribution,
    /// Labels that come after the answer.
    LiveQuality,
    /// Signed approvals.
    Approval,
    /// Routing by the value of an input.
    InputKey,
    /// What turns outputs into decisions.
    Decision,
}

impl Element {
    /// Every element.
    pub const ALL: [Element; 17] = [
        Element::PinnedDigest,
        Element::Signature,
        Element::GoldenGate,
        Element::GoldenTable,
        Element::GoldenInterval,
        Element::QualityGate,
        Element::TrendGate,
        Element::SliceGate,
        Element::PerformanceGate,
        Element::DeviceMemory,
        Element::Shadow,
        Element::Flips,
        Element::OutputDistribution,
        Element::LiveQuality,
        Element::Approval,
        Element::InputKey,
        Element::Decision,
    ];

    /// What to call it.
    pub fn describe(self) -> &'static str {
        match self {
            Element::PinnedDigest => "pinning of digests",
            Element::Signature => "verification of signatures",
            Element::GoldenGate => "the golden gate",
            Element::GoldenTable => "a golden gate with a Parquet file",
            Element::GoldenInterval => "repetition of the golden gate",
            Element::QualityGate => "the quality gate",
            Element::TrendGate => "the trend gate",
            Element::SliceGate => "gates per slice",
            Element::PerformanceGate => "the performance gate",
            Element::DeviceMemory => "a limit on the memory of a device",
            Element::Shadow => "shadow traffic",
            Element::Flips => "counting of flips",
            Element::OutputDistribution => "the check of output distributions",
            Element::LiveQuality => "the check of live quality",
            Element::Approval => "approval",
            Element::InputKey => "routing by an input",
            Element::Decision => "the decision layer",
        }
    }
}

/// The elements that the server has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Built(BTreeSet<Element>);

impl Built {
    /// Exactly these.
    pub fn new(elements: impl IntoIterator<Item = Element>) -> Self {
        Built(elements.into_iter().collect())
    }

    /// The whole design.
    pub fn all() -> Self {
        Built::new(Element::ALL)
    }

    /// Whether this one is there.
    pub fn has(&self, element: Element) -> bool {
        self.0.contains(&element)
    }
}
