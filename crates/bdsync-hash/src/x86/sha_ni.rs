//! The SHA instructions.

/// SHA-NI, and AVX for its instructions with three operands, which save many
/// copies. There is a value only where the processor has both.
#[derive(Clone, Copy)]
pub(super) struct ShaNi(());

impl ShaNi {
    /// If the processor has them.
    pub(super) fn detect() -> Option<ShaNi> {
        (is_x86_feature_detected!("sha") && is_x86_feature_detected!("avx")).then_some(ShaNi(()))
    }
}
