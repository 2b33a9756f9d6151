//! Vector registers of a sum type: what the attention kernels are written on.

use pulp::Simd;

/// Elements that these kernels take at a time, whatever a register's width: buffers that they
/// walk have rows of a multiple of this many.
pub(crate) const LANES: usize = 16;

/// Registers of `f32` or `f64` under an instruction set.
pub trait Registers: Copy + 'static {
    /// A full register.
    type Register<S: Simd>: Copy;

    /// Elements of a register: 1, 2, 4, 8 or 16.
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
    /// `a * b + c`, rounded once where the instruction set can.
    fn fma<S: Simd>(
        simd: S,
        a: Self::Register<S>,
        b: Self::Register<S>,
        c: Self::Register<S>,
    ) -> Self::Register<S>;
    /// The larger; either where one is NaN.
    fn maximum<S: Simd>(simd: S, a: Self::Register<S>, b: Self::Register<S>) -> Self::Register<S>;
    /// `2^x`: 0 of minus infinity, NaN of NaN.
    fn power<S: Simd>(simd: S, x: Self::Register<S>) -> Self::Register<S>;

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

    /// `target[c][r] = source[r][c]` of [`LANES`] rows and columns, rows `stride` apart.
    ///
    /// # Safety
    /// Both blocks must lie in live allocations and must not overlap.
    #[inline(always)]
    unsafe fn transpose<S: Simd>(
        _: S,
        (source, source_stride): (*const Self, usize),
        (target, target_stride): (*mut Self, usize),
    ) {
        for r in 0..LANES {
            for c in 0..LANES {
                // SAFETY: passed on to the caller.
                unsafe { *target.add(c * target_stride + r) = *source.add(r * source_stride + c) };
            }
        }
    }
}

/// Whether the kernels of [`avx512`] may run.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn is_avx512<S: Simd>() -> bool {
    std::any::TypeId::of::<S>() == std::any::TypeId::of::<pulp::x86::V4>()
}

macro_rules! arithmetic {
    ($register:ident, $lanes:ident, $splat:ident, $add:ident, $sub:ident, $mul:ident, $div:ident,
     $fma:ident, $max:ident) => {
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
        fn fma<S: Simd>(
            simd: S,
            a: S::$register,
            b: S::$register,
            c: S::$register,
        ) -> S::$register {
            simd.$fma(a, b, c)
        }
        #[inline(always)]
        fn maximum<S: Simd>(simd: S, a: S::$register, b: S::$register) -> S::$register {
            simd.$max(a, b)
        }
    };
}

/// Cephes' coefficients of `2^r` on [-1/2, 1/2], the highest first: relative error under 2e-7.
const EXP2: [f32; 7] = [
    1.535_336_2e-4,
    1.339_887_4e-3,
    9.618_437e-3,
    5.550_332_5e-2,
    2.402_264_8e-1,
    6.931_472e-1,
    1.0,
];

/// Under this `2^x` is 0 in `f32`.
const LOWEST: f32 = -151.0;

impl Registers for f32 {
    arithmetic!(
        f32s,
        F32_LANES,
        splat_f32s,
        add_f32s,
        sub_f32s,
        mul_f32s,
        div_f32s,
        mul_add_f32s,
        max_f32s
    );

    #[inline(always)]
    fn power<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
        #[cfg(target_arch = "x86_64")]
        if is_avx512::<S>() {
            // SAFETY: under this instruction set a register of `S` is a `__m512`.
            return unsafe {
                let x = std::mem::transmute_copy(&x);
                std::mem::transmute_copy(&avx512::exp2(x))
            };
        }
        // By comparisons, since maxima of a number and NaN differ between instruction sets.
        let [lowest, highest] = [simd.splat_f32s(LOWEST), simd.splat_f32s(200.0)];
        let x = simd.select_f32s(simd.less_than_f32s(x, lowest), lowest, x);
        let x = simd.select_f32s(simd.greater_than_f32s(x, highest), highest, x);
        // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits. Half of it goes to
        // each of two factors, so that results under 2^-126 lose their digits one by one.
        let shift = simd.splat_f32s(12_582_912.0);
        let rounded = |x| {
            let shifted = simd.add_f32s(x, shift);
            let bits =
                simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
            let power = simd.add_u32s(bits, simd.splat_u32s(1.0f32.to_bits()));
            (simd.sub_f32s(shifted, shift), simd.transmute_f32s_u32s(power))
        };
        let (whole, _) = rounded(x);
        let r = simd.sub_f32s(x, whole);
        let mut p = simd.splat_f32s(EXP2[0]);
        for &coefficient in &EXP2[1..] {
            p = simd.mul_add_f32s(p, r, simd.splat_f32s(coefficient));
        }
        let (half, first) = rounded(simd.mul_f32s(whole, simd.splat_f32s(0.5)));
        let (_, second) = rounded(simd.sub_f32s(whole, half));
        simd.mul_f32s(simd.mul_f32s(p, first), second)
    }

    #[inline(always)]
    unsafe fn transpose<S: Simd>(
        _: S,
        (source, source_stride): (*const Self, usize),
        (target, target_stride): (*mut Self, usize),
    ) {
        #[cfg(target_arch = "x86_64")]
        if is_avx512::<S>() {
            // SAFETY: the instruction set is there; the rest is passed on to the caller.
            return unsafe { avx512::transpose((source, source_stride), (target, target_stride)) };
        }
        for r in 0..LANES {
            for c in 0..LANES {
                // SAFETY: passed on to the caller.
                unsafe { *target.add(c * target_stride + r) = *source.add(r * source_stride + c) };
            }
        }
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
        mul_add_f64s,
        max_f64s
    );

    /// Lane by lane: `f64` is for references, not for speed.
    #[inline(always)]
    fn power<S: Simd>(simd: S, x: S::f64s) -> S::f64s {
        let mut lanes = [0f64; LANES];
        // SAFETY: no register is wider than sixteen elements.
        unsafe {
            Self::store(simd, lanes.as_mut_ptr(), x);
            for lane in &mut lanes[..S::F64_LANES] {
                *lane = f64::exp2(*lane);
            }
            Self::load(simd, lanes.as_ptr())
        }
    }
}

/// Instructions that the portable registers do not have.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{EXP2, LANES, LOWEST};

    /// Eleven instructions for sixteen powers: rounding and scaling by `2^n` are one each.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn exp2(x: __m512) -> __m512 {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        // The larger of a number and NaN is the second operand here, so NaN stays.
        let x = _mm512_max_ps(_mm512_set1_ps(LOWEST), x);
        let whole = _mm512_roundscale_ps::<NEAREST>(x);
        let r = _mm512_sub_ps(x, whole);
        let mut p = _mm512_set1_ps(EXP2[0]);
        for &coefficient in &EXP2[1..] {
            p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(coefficient));
        }
        _mm512_scalef_ps(p, whole)
    }

    /// 64 shuffles for 256 elements: pairs, fours within 128 bits, then the four quarters.
    ///
    /// # Safety
    /// As for [`super::Registers::transpose`].
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub unsafe fn transpose(
        (source, source_stride): (*const f32, usize),
        (target, target_stride): (*mut f32, usize),
    ) {
        let pd = |x| _mm512_castps_pd(x);
        let ps = |x| _mm512_castpd_ps(x);
        let mut rows = [_mm512_setzero_ps(); LANES];
        for (i, row) in rows.iter_mut().enumerate() {
            // SAFETY: passed on to the caller.
            *row = unsafe { _mm512_loadu_ps(source.add(i * source_stride)) };
        }
        for i in (0..LANES).step_by(4) {
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
            let quarters = [
                _mm512_shuffle_f32x4::<0x88>(even, even_high),
                _mm512_shuffle_f32x4::<0x88>(odd, odd_high),
                _mm512_shuffle_f32x4::<0xdd>(even, even_high),
                _mm512_shuffle_f32x4::<0xdd>(odd, odd_high),
            ];
            for (q, value) in quarters.into_iter().enumerate() {
                // SAFETY: passed on to the caller.
                unsafe { _mm512_storeu_ps(target.add((4 * q + c) * target_stride), value) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pulp::{Arch, Scalar, WithSimd};

    use super::*;

    struct Exp2(f32);

    impl WithSimd for Exp2 {
        type Output = f32;
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> f32 {
            let mut lanes = [0.0; LANES];
            // SAFETY: no register is wider than sixteen elements.
            unsafe {
                f32::store(simd, lanes.as_mut_ptr(), f32::power(simd, f32::splat(simd, self.0)));
            }
            lanes[0]
        }
    }

    #[test]
    fn powers_agree_with_f64_on_every_instruction_set() {
        type Run = fn(f32) -> f32;
        let mut runs: Vec<(&str, Run)> = vec![
            ("widest", |x| Arch::new().dispatch(Exp2(x))),
            ("scalar", |x| Exp2(x).with_simd(Scalar::new())),
        ];
        #[cfg(target_arch = "x86_64")]
        if pulp::x86::V3::try_new().is_some() {
            runs.push(("AVX2", |x| {
                let simd = pulp::x86::V3::try_new().unwrap();
                simd.vectorize(|| Exp2(x).with_simd(simd))
            }));
        }
        for (name, run) in runs {
            let mut worst = 0f64;
            for i in -15_100..=1279 {
                let x = i as f32 * 0.1 + 0.037;
                let exact = f64::from(x).exp2();
                // Numbers under 2^-126 carry the spacing of subnormal numbers.
                let error =
                    (f64::from(run(x)) - exact).abs() / exact.max(f64::from(f32::MIN_POSITIVE));
                worst = worst.max(error);
            }
            assert!(worst < 2e-7, "{name}: {worst}");
            assert_eq!(run(0.0), 1.0, "{name}");
            assert_eq!(run(f32::NEG_INFINITY), 0.0, "{name}");
            assert_eq!(run(-300.0), 0.0, "{name}");
            assert_eq!(run(300.0), f32::INFINITY, "{name}");
            assert!(run(f32::NAN).is_nan(), "{name}");
        }
    }

    struct Turned<'a>(&'a [f32]);

    impl WithSimd for Turned<'_> {
        type Output = [f32; LANES * LANES];
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
            let mut turned = [0.0; LANES * LANES];
            // SAFETY: the source has sixteen rows of 19 elements.
            unsafe { f32::transpose(simd, (self.0.as_ptr(), 19), (turned.as_mut_ptr(), LANES)) };
            turned
        }
    }

    #[test]
    fn blocks_are_transposed() {
        let source: Vec<f32> = (0..LANES * 19).map(|i| i as f32).collect();
        for turned in
            [Arch::new().dispatch(Turned(&source)), Turned(&source).with_simd(Scalar::new())]
        {
            for r in 0..LANES {
                for c in 0..LANES {
                    assert_eq!(turned[c * LANES + r], source[r * 19 + c]);
                }
            }
        }
    }
}
