//! Registers of a number type: what kernels need that the compiler's own
//! vectoriser does not find.
//!
//! Loops over slices of run-time length are left to the compiler. Kernels over
//! sixteen channels or sixteen rows are written on registers instead: a
//! constant trip count of sixteen is unrolled first and then badly put
//! together again.

use pulp::{MemMask, Simd};

/// Rows or channels that kernels on registers take at a time, whatever a register's width.
pub(crate) const BLOCK: usize = 16;

/// Registers of f32 or f64 under an instruction set; [`Real`](crate::Real)'s sealed part.
pub trait Registers: Copy + 'static {
    /// A full register.
    type Register<S: Simd>: Copy;

    /// Elements of a register: 1, 2, 4, 8 or 16, so that it divides 16.
    fn width<S: Simd>() -> usize;
    /// All elements equal.
    fn splat<S: Simd>(simd: S, value: Self) -> Self::Register<S>;
    /// `a + b`.
    fn plus<S: Simd>(simd: S, a: Self::Register<S>, b: Self::Register<S>) -> Self::Register<S>;
    /// `a - b`.
    fn minus<S: Simd>(simd: S, a: Self::Register<S>, b: Self::Register<S>) -> Self::Register<S>;
    /// `a * b`.
    fn times<S: Simd>(simd: S, a: Self::Register<S>, b: Self::Register<S>) -> Self::Register<S>;
    /// `a / b`.
    fn over<S: Simd>(simd: S, a: Self::Register<S>, b: Self::Register<S>) -> Self::Register<S>;
    /// The larger; `b` where either is NaN.
    fn larger<S: Simd>(simd: S, a: Self::Register<S>, b: Self::Register<S>) -> Self::Register<S>;
    /// `a * b + c`, rounded once where the instruction set can.
    fn fma<S: Simd>(
        simd: S,
        a: Self::Register<S>,
        b: Self::Register<S>,
        c: Self::Register<S>,
    ) -> Self::Register<S>;
    /// `x` where `condition > 0`, else 0.
    fn where_positive<S: Simd>(
        simd: S,
        condition: Self::Register<S>,
        x: Self::Register<S>,
    ) -> Self::Register<S>;
    /// `2^x` for `x <= 127`; below -126 the smallest normal number.
    fn exp2<S: Simd>(simd: S, x: Self::Register<S>) -> Self::Register<S>;

    /// A register from `pointer`.
    ///
    /// # Safety
    /// A register's worth of elements must be readable there.
    #[inline(always)]
    unsafe fn load<S: Simd>(_: S, pointer: *const Self) -> Self::Register<S> {
        // SAFETY: passed on to the caller; a register is plain numbers.
        unsafe { pointer.cast::<Self::Register<S>>().read_unaligned() }
    }

    /// A register to `pointer`.
    ///
    /// # Safety
    /// A register's worth of elements must be writable there.
    #[inline(always)]
    unsafe fn store<S: Simd>(_: S, pointer: *mut Self, value: Self::Register<S>) {
        // SAFETY: passed on to the caller.
        unsafe { pointer.cast::<Self::Register<S>>().write_unaligned(value) }
    }

    /// The first `count` elements from `pointer`, the others zero.
    ///
    /// # Safety
    /// `count` elements must be readable there, and a register must have as many.
    unsafe fn load_first<S: Simd>(simd: S, pointer: *const Self, count: usize)
    -> Self::Register<S>;

    /// The first `count` elements to `pointer`.
    ///
    /// # Safety
    /// `count` elements must be writable there, and a register must have as many.
    unsafe fn store_first<S: Simd>(
        simd: S,
        pointer: *mut Self,
        count: usize,
        value: Self::Register<S>,
    );

    /// `target[c][r] = source[r][c]` for sixteen rows and columns, rows `stride` apart.
    ///
    /// # Safety
    /// Both blocks must lie in live allocations and must not overlap.
    unsafe fn transpose<S: Simd>(simd: S, source: (*const Self, usize), target: (*mut Self, usize));

    /// Sums of sixteen rows of sixteen elements, one behind the other.
    fn row_sums<S: Simd>(simd: S, rows: &[[Self; BLOCK]; BLOCK]) -> [Self; BLOCK];
}

/// [`Registers::transpose`] element by element.
#[inline(always)]
unsafe fn transpose_plain<T: Copy>(
    (source, source_stride): (*const T, usize),
    (target, target_stride): (*mut T, usize),
) {
    for r in 0..BLOCK {
        for c in 0..BLOCK {
            // SAFETY: passed on to the caller.
            unsafe { *target.add(c * target_stride + r) = *source.add(r * source_stride + c) };
        }
    }
}

/// [`Registers::row_sums`] element by element.
#[inline(always)]
fn row_sums_plain<T: crate::Real>(rows: &[[T; BLOCK]; BLOCK]) -> [T; BLOCK] {
    rows.map(|row| row.into_iter().fold(T::ZERO, |sum, x| sum + x))
}

/// Whether the kernels of [`avx512`] may run.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn is_avx512<S: Simd>() -> bool {
    std::any::TypeId::of::<S>() == std::any::TypeId::of::<pulp::x86::V4>()
}

/// The mask alone where the instruction set has loads and stores under one: they cost no more than
/// whole ones (Zen 4), and less than the call of a function for each number of elements.
#[inline(always)]
fn masked<S: Simd, M: Copy>(mask: MemMask<M>) -> MemMask<M> {
    #[cfg(target_arch = "x86_64")]
    if is_avx512::<S>() {
        return MemMask::new(mask.mask());
    }
    mask
}

macro_rules! arithmetic {
    ($register:ident, $lanes:ident, $splat:ident, $add:ident, $sub:ident, $mul:ident, $div:ident,
     $max:ident, $fma:ident, $greater:ident, $select:ident, $between:ident, $load:ident,
     $store:ident) => {
        type Register<S: Simd> = S::$register;

        #[inline(always)]
        fn width<S: Simd>() -> usize {
            S::$lanes
        }
        #[inline(always)]
        fn splat<S: Simd>(simd: S, value: Self) -> S::$register {
            simd.$splat(value)
        }
        #[inline(always)]
        fn plus<S: Simd>(simd: S, a: S::$register, b: S::$register) -> S::$register {
            simd.$add(a, b)
        }
        #[inline(always)]
        fn minus<S: Simd>(simd: S, a: S::$register, b: S::$register) -> S::$register {
            simd.$sub(a, b)
        }
        #[inline(always)]
        fn times<S: Simd>(simd: S, a: S::$register, b: S::$register) -> S::$register {
            simd.$mul(a, b)
        }
        #[inline(always)]
        fn over<S: Simd>(simd: S, a: S::$register, b: S::$register) -> S::$register {
            simd.$div(a, b)
        }
        #[inline(always)]
        fn larger<S: Simd>(simd: S, a: S::$register, b: S::$register) -> S::$register {
            // Registers of several numbers already do so; a single number's maximum drops a NaN.
            if Self::width::<S>() == 1 {
                return simd.$select(simd.$greater(a, b), a, b);
            }
            simd.$max(a, b)
        }
        #[inline(always)]
        fn fma<S: Simd>(
            simd: S,
            a: S::$register,
            b: S::$register,
            c: S::$register,
        ) -> S::$register {
            simd.$fma(a, b, c)
        }
        #[inline(always)]
        fn where_positive<S: Simd>(
            simd: S,
            condition: S::$register,
            x: S::$register,
        ) -> S::$register {
            let zero = simd.$splat(0.0);
            simd.$select(simd.$greater(condition, zero), x, zero)
        }
        #[inline(always)]
        unsafe fn load_first<S: Simd>(simd: S, pointer: *const Self, count: usize) -> S::$register {
            // SAFETY: only these elements are read.
            unsafe { simd.$load(masked::<S, _>(simd.$between(0, count as _)), pointer) }
        }
        #[inline(always)]
        unsafe fn store_first<S: Simd>(
            simd: S,
            pointer: *mut Self,
            count: usize,
            value: S::$register,
        ) {
            // SAFETY: only these elements are written.
            unsafe { simd.$store(masked::<S, _>(simd.$between(0, count as _)), pointer, value) }
        }
    };
}

impl Registers for f32 {
    arithmetic!(
        f32s,
        F32_LANES,
        splat_f32s,
        add_f32s,
        sub_f32s,
        mul_f32s,
        div_f32s,
        max_f32s,
        mul_add_f32s,
        greater_than_f32s,
        select_f32s,
        mask_between_m32s,
        mask_load_ptr_f32s,
        mask_store_ptr_f32s
    );

    /// Rounds to an integer by adding 1.5 * 2^23 and takes a polynomial of degree 6 on
    /// [-1/2, 1/2]: relative error below 2e-7.
    #[inline(always)]
    fn exp2<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
        let x = simd.max_f32s(simd.splat_f32s(-126.0), x);
        let shift = simd.splat_f32s(12_582_912.0);
        let shifted = simd.add_f32s(x, shift);
        let r = simd.sub_f32s(x, simd.sub_f32s(shifted, shift));
        // Coefficients of the Cephes library's exp2f.
        let p =
            simd.mul_add_f32s(simd.splat_f32s(1.535_336_2e-4), r, simd.splat_f32s(1.339_887_4e-3));
        let p = simd.mul_add_f32s(p, r, simd.splat_f32s(9.618_437e-3));
        let p = simd.mul_add_f32s(p, r, simd.splat_f32s(5.550_332_5e-2));
        let p = simd.mul_add_f32s(p, r, simd.splat_f32s(2.402_264_8e-1));
        let p = simd.mul_add_f32s(p, r, simd.splat_f32s(6.931_472e-1));
        let p = simd.mul_add_f32s(p, r, simd.splat_f32s(1.0));
        // The integer is in the low bits of the shifted sum: it goes to the exponent.
        let bits = simd.transmute_u32s_f32s(shifted);
        let exponent = simd.wrapping_dyn_shl_u32s(bits, simd.splat_u32s(23));
        simd.transmute_f32s_u32s(simd.add_u32s(simd.transmute_u32s_f32s(p), exponent))
    }

    #[inline(always)]
    unsafe fn transpose<S: Simd>(_: S, source: (*const Self, usize), target: (*mut Self, usize)) {
        #[cfg(target_arch = "x86_64")]
        if is_avx512::<S>() {
            // SAFETY: the instruction set is there; the rest is passed on to the caller.
            return unsafe { avx512::transpose(source, target) };
        }
        // SAFETY: passed on to the caller.
        unsafe { transpose_plain(source, target) };
    }

    #[inline(always)]
    fn row_sums<S: Simd>(_: S, rows: &[[Self; BLOCK]; BLOCK]) -> [Self; BLOCK] {
        #[cfg(target_arch = "x86_64")]
        if is_avx512::<S>() {
            // SAFETY: the instruction set is there.
            return unsafe { avx512::row_sums(rows) };
        }
        row_sums_plain(rows)
    }
}

impl Registers for f64 {
    arithmetic!(
        f64s,
        F64_LANES,
        splat_f64s,
        add_f64s,
        sub_f64s,
        mul_f64s,
        div_f64s,
        max_f64s,
        mul_add_f64s,
        greater_than_f64s,
        select_f64s,
        mask_between_m64s,
        mask_load_ptr_f64s,
        mask_store_ptr_f64s
    );

    /// Lane by lane: f64 is for references, not for speed.
    #[inline(always)]
    fn exp2<S: Simd>(simd: S, x: S::f64s) -> S::f64s {
        let mut lanes = [0.0f64; BLOCK];
        // SAFETY: no register is wider than sixteen elements.
        unsafe { Self::store(simd, lanes.as_mut_ptr(), x) };
        for lane in &mut lanes[..S::F64_LANES] {
            *lane = f64::exp2(*lane);
        }
        // SAFETY: as above.
        unsafe { Self::load(simd, lanes.as_ptr()) }
    }

    #[inline(always)]
    unsafe fn transpose<S: Simd>(_: S, source: (*const Self, usize), target: (*mut Self, usize)) {
        // SAFETY: passed on to the caller.
        unsafe { transpose_plain(source, target) };
    }

    #[inline(always)]
    fn row_sums<S: Simd>(_: S, rows: &[[Self; BLOCK]; BLOCK]) -> [Self; BLOCK] {
        row_sums_plain(rows)
    }
}

/// Shuffles that the portable registers do not have.
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512 {
    use std::arch::x86_64::*;

    use super::BLOCK;

    /// 64 shuffles for 256 elements: pairs, fours within 128 bits, then the four quarters.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn transpose(
        (source, source_stride): (*const f32, usize),
        (target, target_stride): (*mut f32, usize),
    ) {
        let mut rows = [_mm512_setzero_ps(); BLOCK];
        for (i, row) in rows.iter_mut().enumerate() {
            // SAFETY: passed on to the caller.
            *row = unsafe { _mm512_loadu_ps(source.add(i * source_stride)) };
        }
        for i in (0..BLOCK).step_by(4) {
            let [a, b, c, d] = [rows[i], rows[i + 1], rows[i + 2], rows[i + 3]];
            let (low_ab, high_ab) = (pd(_mm512_unpacklo_ps(a, b)), pd(_mm512_unpackhi_ps(a, b)));
            let (low_cd, high_cd) = (pd(_mm512_unpacklo_ps(c, d)), pd(_mm512_unpackhi_ps(c, d)));
            rows[i] = ps(_mm512_unpacklo_pd(low_ab, low_cd));
            rows[i + 1] = ps(_mm512_unpackhi_pd(low_ab, low_cd));
            rows[i + 2] = ps(_mm512_unpacklo_pd(high_ab, high_cd));
            rows[i + 3] = ps(_mm512_unpackhi_pd(high_ab, high_cd));
        }
        for c in 0..4 {
            let even = _mm512_shuffle_f32x4::<0x88>(rows[c], rows[4 + c]);
            let odd = _mm512_shuffle_f32x4::<0xdd>(rows[c], rows[4 + c]);
            let even_high = _mm512_shuffle_f32x4::<0x88>(rows[8 + c], rows[12 + c]);
            let odd_high = _mm512_shuffle_f32x4::<0xdd>(rows[8 + c], rows[12 + c]);
            // SAFETY: passed on to the caller.
            unsafe {
                let quarters = [
                    _mm512_shuffle_f32x4::<0x88>(even, even_high),
                    _mm512_shuffle_f32x4::<0x88>(odd, odd_high),
                    _mm512_shuffle_f32x4::<0xdd>(even, even_high),
                    _mm512_shuffle_f32x4::<0xdd>(odd, odd_high),
                ];
                for (q, value) in quarters.into_iter().enumerate() {
                    _mm512_storeu_ps(target.add((4 * q + c) * target_stride), value);
                }
            }
        }
    }

    /// 30 shuffles and 15 additions for sixteen sums.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn row_sums(rows: &[[f32; BLOCK]; BLOCK]) -> [f32; BLOCK] {
        let mut fours = [_mm512_setzero_ps(); 4];
        for (four, rows) in fours.iter_mut().zip(rows.as_chunks::<4>().0) {
            // SAFETY: a row is a register.
            let [a, b, c, d] = rows.each_ref().map(|r| unsafe { _mm512_loadu_ps(r.as_ptr()) });
            let ab = pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
            let cd = pd(_mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d)));
            *four = _mm512_add_ps(ps(_mm512_unpacklo_pd(ab, cd)), ps(_mm512_unpackhi_pd(ab, cd)));
        }
        let quarters = |a, b| {
            _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b))
        };
        let total = quarters(quarters(fours[0], fours[1]), quarters(fours[2], fours[3]));
        let mut sums = [0.0; BLOCK];
        // SAFETY: sixteen elements.
        unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), total) };
        sums
    }

    #[target_feature(enable = "avx512f")]
    fn pd(x: __m512) -> __m512d {
        _mm512_castps_pd(x)
    }

    #[target_feature(enable = "avx512f")]
    fn ps(x: __m512d) -> __m512 {
        _mm512_castpd_ps(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pulp::{Arch, WithSimd};

    struct Exp2(f32);

    impl WithSimd for Exp2 {
        type Output = f32;
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> f32 {
            let mut lanes = [0.0; BLOCK];
            // SAFETY: no register is wider than sixteen elements.
            unsafe {
                f32::store(
                    simd,
                    lanes.as_mut_ptr(),
                    <f32 as Registers>::exp2(simd, f32::splat(simd, self.0)),
                )
            };
            lanes[0]
        }
    }

    #[test]
    fn exp2_is_accurate_everywhere() {
        let arch = Arch::new();
        let mut worst = 0.0f64;
        for i in -125_000..127_000 {
            let x = i as f32 * 1e-3 + 3.7e-4;
            let error = f64::from(arch.dispatch(Exp2(x))) / f64::from(x).exp2() - 1.0;
            worst = worst.max(error.abs());
        }
        assert!(worst < 2e-7, "{worst}");
        assert_eq!(arch.dispatch(Exp2(0.0)), 1.0);
        assert!(arch.dispatch(Exp2(-1e5)) < 2e-38);
        assert!(arch.dispatch(Exp2(f32::NAN)).is_nan());
    }

    struct Larger(f32, f32);

    impl WithSimd for Larger {
        type Output = bool;
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> bool {
            let [a, b] = [self.0, self.1].map(|x| f32::splat(simd, x));
            let mut lanes = [0.0; BLOCK];
            // SAFETY: no register is wider than sixteen elements.
            unsafe { f32::store(simd, lanes.as_mut_ptr(), f32::larger(simd, a, b)) };
            let expected = if self.0 > self.1 { self.0 } else { self.1 };
            lanes[0].to_bits() == expected.to_bits()
        }
    }

    /// A ReLU that dropped a NaN would hide a training that has diverged.
    #[test]
    fn the_larger_is_the_second_where_either_is_nan() {
        let numbers = [0.0, -1.5, 2.5, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        for (a, b) in numbers.iter().flat_map(|&a| numbers.map(|b| (a, b))) {
            assert!(Arch::new().dispatch(Larger(a, b)), "{a} {b}");
            assert!(Larger(a, b).with_simd(pulp::Scalar::new()), "{a} {b} one by one");
        }
    }

    struct Blocks(Vec<f32>);

    impl WithSimd for Blocks {
        type Output = ([f32; 256], [f32; BLOCK]);
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
            let mut transposed = [0.0; 256];
            // SAFETY: the source has sixteen rows of 19 elements.
            unsafe { f32::transpose(simd, (self.0.as_ptr(), 19), (transposed.as_mut_ptr(), 16)) };
            let mut rows = [[0.0; BLOCK]; BLOCK];
            for (row, source) in rows.iter_mut().zip(self.0.chunks(19)) {
                row.copy_from_slice(&source[..BLOCK]);
            }
            (transposed, f32::row_sums(simd, &rows))
        }
    }

    #[test]
    fn blocks_are_transposed_and_summed() {
        let source: Vec<f32> = (0..16 * 19).map(|i| (i * i % 257) as f32).collect();
        let (transposed, sums) = Arch::new().dispatch(Blocks(source.clone()));
        for r in 0..BLOCK {
            for c in 0..BLOCK {
                assert_eq!(transposed[c * 16 + r], source[r * 19 + c]);
            }
            assert_eq!(sums[r], source[r * 19..r * 19 + 16].iter().sum::<f32>());
        }
    }
}
