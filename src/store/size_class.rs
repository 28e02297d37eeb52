//! What an allocation really takes, by arithmetic: the size classes of jemalloc.
//!
//! An entry is to count alike on every node and allocator, and asking the allocator costs more than this. Source:
//! jemalloc's manual, "Size classes": 8, then steps of 16 (of 8 up to 64, if it was built so) up to 128, then four classes per doubling.

/// The first step, by the setting that jemalloc was built with too (`.cargo/config.toml`; it is not read when cargo is called elsewhere).
const QUANTUM: usize = match option_env!("JEMALLOC_SYS_WITH_LG_QUANTUM") {
    Some(lg) if matches!(lg.as_bytes(), b"3") => 8,
    _ => 16,
};

/// Bytes the allocator sets aside for a request of `bytes`; 0 for 0.
#[must_use]
pub(super) const fn size_class(bytes: usize) -> usize {
    if bytes == 0 {
        0
    } else if bytes <= 8 {
        8
    } else if bytes <= 64 {
        bytes.next_multiple_of(QUANTUM)
    } else if bytes <= 128 {
        bytes.next_multiple_of(16)
    } else {
        bytes.next_multiple_of(1 << ((bytes - 1).ilog2() - 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_classes_are_those_of_the_manual() {
        let steps = [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640];
        let classes = steps.into_iter().filter(|class| *class == 8 || class % QUANTUM == 0).collect::<Vec<_>>();
        let large = [3584, 4096, 5120, 6144, 7168, 8192, 10 << 10, 14 << 10, 16 << 10, 20 << 10, 1 << 20, 1280 << 10];
        for pair in classes.windows(2) {
            assert_eq!(size_class(pair[0] + 1), pair[1]);
            assert_eq!(size_class(pair[1]), pair[1]);
        }
        assert!(large.iter().all(|&class| size_class(class) == class && size_class(class - 1) == class));
        assert_eq!(size_class(4097), 5120);
    }
}
