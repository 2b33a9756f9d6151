//! The layouts of PyTorch's nested tensors and of TorchRec's KeyedJaggedTensor.

use std::ops::Range;
use std::sync::Arc;

use crate::error::check_equal;
use crate::offsets::OffsetInteger;
use crate::{Element, JaggedError, JaggedTensor, Offsets, Overflow};

/// The pieces that `torch.nested.nested_tensor_from_jagged` takes.
#[derive(Debug, Clone, PartialEq)]
pub struct NestedTensorParts<T> {
    /// `values()`, shape `[T, inner...]`.
    pub values: Vec<T>,
    /// `offsets()`, shape `[B + 1]`, int64.
    pub offsets: Vec<i64>,
    /// `lengths()`, shape `[B]`, where rows do not fill the space between offsets.
    pub lengths: Option<Vec<i64>>,
    /// The shape of one element.
    pub inner: Vec<usize>,
    /// `_max_seqlen`.
    pub max_seqlen: usize,
}

impl<T: Element> NestedTensorParts<T> {
    /// From a nested tensor. Rows with holes (`lengths` given) are packed.
    pub fn into_jagged(self) -> Result<JaggedTensor<T>, JaggedError> {
        let Some(lengths) = self.lengths else {
            let offsets = Offsets::new(&self.offsets, self.max_seqlen, Overflow::Error)?;
            return JaggedTensor::new(self.values, &self.inner, Arc::new(offsets));
        };
        let spaces = Offsets::new(&self.offsets, usize::MAX, Overflow::Error)?;
        check_equal("the number of lengths", lengths.len(), spaces.rows(), "offsets")?;
        let width = self.inner.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
        let too_large = || JaggedError::Overflow { formula: format!("{:?}", self.inner) };
        let width = width.ok_or_else(too_large)?;
        let whole = crate::JaggedView::new(&self.values, width, &spaces)?;
        let packed =
            Offsets::from_lengths(&lengths)?.with_max_len(self.max_seqlen, Overflow::Error)?;
        for b in 0..packed.rows() {
            let (length, space) = (packed.length(b), spaces.length(b));
            if length > space {
                return Err(JaggedError::RowTooLong { row: b, length, max_len: space });
            }
        }
        // No row is longer than its space, so all of them fit in the values that are there.
        let mut values = Vec::with_capacity(packed.total() * width);
        for b in 0..packed.rows() {
            values.extend_from_slice(&whole.row(b)[..packed.length(b) * width]);
        }
        JaggedTensor::new(values, &self.inner, Arc::new(packed))
    }

    /// To a nested tensor, without a copy of the values.
    pub fn from_jagged(tensor: JaggedTensor<T>) -> Self {
        let inner = tensor.inner().to_vec();
        let (values, offsets) = tensor.into_parts();
        Self {
            values,
            offsets: offsets.as_slice().to_vec(),
            lengths: None,
            inner,
            max_seqlen: offsets.longest(),
        }
    }
}

/// TorchRec's KeyedJaggedTensor: several features of one batch in one buffer.
///
/// Rows are feature-major: row `f * B + b` holds the values of feature `f` in
/// sample `b`. Optional weights have one number a value.
///
/// ```
/// use palmette_jagged::KeyedJagged;
///
/// let clicks = KeyedJagged::from_lengths(
///     vec!["item".into(), "shop".into()],
///     vec![10i64, 11, 12, 7],
///     &[2i64, 1, 0, 1],
///     None,
/// )?;
/// assert_eq!(clicks.batch(), 2);
/// let (values, offsets) = clicks.feature("shop").unwrap();
/// assert_eq!((values, offsets.as_slice()), (&[7i64][..], &[0i64, 0, 1][..]));
/// # Ok::<(), palmette_jagged::JaggedError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct KeyedJagged<V> {
    keys: Vec<String>,
    values: Vec<V>,
    weights: Option<Vec<f32>>,
    offsets: Offsets,
}

/// One feature of a [`KeyedJagged`].
#[derive(Debug, Clone, Copy)]
pub struct KeyedFeature<'a, V> {
    /// Its name.
    pub key: &'a str,
    /// Its values.
    pub values: &'a [V],
    /// Where each sample's values are, `[B + 1]`.
    pub offsets: &'a Offsets,
    /// A number for every value.
    pub weights: Option<&'a [f32]>,
}

impl<V: Copy> KeyedJagged<V> {
    /// From `lengths` `[F * B]`.
    pub fn from_lengths<I: OffsetInteger>(
        keys: Vec<String>,
        values: Vec<V>,
        lengths: &[I],
        weights: Option<Vec<f32>>,
    ) -> Result<Self, JaggedError> {
        Self::with_offsets(keys, values, Offsets::from_lengths(lengths)?, weights)
    }

    /// From `offsets` `[F * B + 1]`.
    pub fn with_offsets(
        keys: Vec<String>,
        values: Vec<V>,
        offsets: Offsets,
        weights: Option<Vec<f32>>,
    ) -> Result<Self, JaggedError> {
        check_equal("the number of values", values.len(), offsets.total(), "the last offset")?;
        if let Some(weights) = &weights {
            check_equal("the number of weights", weights.len(), values.len(), "values")?;
        }
        if keys.is_empty() {
            check_equal("the number of rows without keys", offsets.rows(), 0, "keys")?;
        } else if !offsets.rows().is_multiple_of(keys.len()) {
            return Err(JaggedError::Unsupported {
                what: "the number of rows",
                found: offsets.rows().to_string(),
                accepted: "a multiple of the number of keys (F features x B samples)",
            });
        }
        Ok(Self { keys, values, weights, offsets })
    }

    /// From features with a row for every sample each: the way back from [`KeyedJagged::feature`].
    /// All features have weights or none.
    pub fn from_features<'a>(features: &[KeyedFeature<'a, V>]) -> Result<Self, JaggedError> {
        let mut lengths = Vec::new();
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let mut weights = features.first().and_then(|first| first.weights).map(|_| Vec::new());
        for feature in features {
            let (offsets, rows) = (feature.offsets, features[0].offsets.rows());
            check_equal("the number of samples of a feature", offsets.rows(), rows, "the first")?;
            let found = feature.values.len();
            check_equal("the number of values", found, offsets.total(), "the last offset")?;
            lengths.extend((0..rows).map(|b| offsets.range(b).len() as i64));
            keys.push(feature.key.to_owned());
            values.extend_from_slice(feature.values);
            match (&mut weights, feature.weights) {
                (Some(all), Some(own)) => all.extend_from_slice(own),
                (None, None) => {}
                _ => {
                    return Err(JaggedError::Unsupported {
                        what: "weights",
                        found: format!(
                            "present for `{}` or for the first feature alone",
                            feature.key
                        ),
                        accepted: "weights of all features or of none",
                    });
                }
            }
        }
        Self::from_lengths(keys, values, &lengths, weights)
    }

    /// Feature names.
    pub fn keys(&self) -> &[String] {
        &self.keys
    }

    /// Number of samples `B`.
    pub fn batch(&self) -> usize {
        if self.keys.is_empty() { 0 } else { self.offsets.rows() / self.keys.len() }
    }

    /// Offsets over all features, `[F * B + 1]`.
    pub fn offsets(&self) -> &Offsets {
        &self.offsets
    }

    /// All values, feature after feature.
    pub fn values(&self) -> &[V] {
        &self.values
    }

    /// Values and row offsets (from 0) of one feature, if it is there.
    pub fn feature(&self, key: &str) -> Option<(&[V], Offsets)> {
        let (range, offsets) = self.locate(key)?;
        Some((&self.values[range], offsets))
    }

    /// Weights of one feature, if it is there and the tensor has weights.
    pub fn feature_weights(&self, key: &str) -> Option<&[f32]> {
        let (range, _) = self.locate(key)?;
        self.weights.as_ref().map(|weights| &weights[range])
    }

    fn locate(&self, key: &str) -> Option<(Range<usize>, Offsets)> {
        let f = self.keys.iter().position(|name| name == key)?;
        let batch = self.batch();
        let slice = &self.offsets.as_slice()[f * batch..=(f + 1) * batch];
        let lengths: Vec<i64> = slice.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let range = slice[0] as usize..slice[batch] as usize;
        Offsets::from_lengths(&lengths).ok().map(|offsets| (range, offsets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_tensors_go_there_and_back() {
        let offsets = Arc::new(Offsets::from_lengths(&[2i64, 0, 1]).unwrap());
        let tensor = JaggedTensor::new((0..6).map(|x| x as f32).collect(), &[2], offsets).unwrap();
        let parts = NestedTensorParts::from_jagged(tensor.clone());
        assert_eq!((parts.max_seqlen, parts.offsets.as_slice()), (2, &[0i64, 2, 2, 3][..]));
        assert_eq!(parts.into_jagged().unwrap(), tensor);
    }

    #[test]
    fn nested_tensors_with_holes_are_packed() {
        let parts = NestedTensorParts {
            values: vec![1f32, 2., 3., 4., 5.],
            offsets: vec![0, 3, 5],
            lengths: Some(vec![2, 1]),
            inner: vec![],
            max_seqlen: 3,
        };
        let tensor = parts.clone().into_jagged().unwrap();
        assert_eq!(tensor.view().values(), &[1., 2., 4.]);
        // A length that nothing could hold is the row's error, not an allocation's.
        let huge = NestedTensorParts {
            lengths: Some(vec![1 << 60, 1]),
            max_seqlen: usize::MAX,
            ..parts.clone()
        };
        assert!(matches!(huge.into_jagged(), Err(JaggedError::RowTooLong { row: 0, .. })));
        let wide = NestedTensorParts { inner: vec![1 << 33, 1 << 33], ..parts.clone() };
        assert!(matches!(wide.into_jagged(), Err(JaggedError::Overflow { .. })));
        let long = NestedTensorParts { lengths: Some(vec![2, 3]), ..parts };
        assert_eq!(
            long.into_jagged(),
            Err(JaggedError::RowTooLong { row: 1, length: 3, max_len: 2 })
        );
    }

    #[test]
    fn keyed_tensors_are_checked() {
        let keys = vec!["a".to_string(), "b".to_string()];
        assert!(KeyedJagged::from_lengths(keys.clone(), vec![1, 2], &[1i64, 1, 0], None).is_err());
        assert!(KeyedJagged::from_lengths(keys.clone(), vec![1], &[1i64, 1], None).is_err());
        let weights = Some(vec![0.5]);
        assert!(KeyedJagged::from_lengths(keys.clone(), vec![1, 2], &[1i64, 1], weights).is_err());
        let kept =
            KeyedJagged::from_lengths(keys, vec![1, 2], &[1i64, 1], Some(vec![0.5, 2.0])).unwrap();
        assert_eq!(kept.feature_weights("b"), Some(&[2.0f32][..]));
        assert!(kept.feature("c").is_none());
    }

    #[test]
    fn features_become_one_buffer_and_come_back() {
        let keys = vec!["item".to_owned(), "shop".to_owned(), "none".to_owned()];
        let weights: Vec<f32> = (0..4).map(|i| i as f32 * 0.5).collect();
        let whole = KeyedJagged::from_lengths(
            keys,
            vec![10i64, 11, 12, 7],
            &[2i64, 1, 0, 1, 0, 0],
            Some(weights),
        )
        .unwrap();
        let parts: Vec<_> = whole.keys().iter().map(|key| whole.feature(key).unwrap()).collect();
        let mut features: Vec<_> = whole
            .keys()
            .iter()
            .zip(&parts)
            .map(|(key, (values, offsets))| KeyedFeature {
                key,
                values,
                offsets,
                weights: whole.feature_weights(key),
            })
            .collect();
        assert_eq!(KeyedJagged::from_features(&features).unwrap(), whole);
        features[1].weights = None;
        let error = KeyedJagged::from_features(&features).unwrap_err().to_string();
        assert!(error.contains("`shop`"), "{error}");
        let other = Offsets::from_lengths(&[1i64]).unwrap();
        features[1] = KeyedFeature { values: &[7], offsets: &other, ..features[1] };
        assert!(KeyedJagged::from_features(&features).is_err());
        let nothing = KeyedJagged::<i64>::from_features(&[]).unwrap();
        assert_eq!((nothing.batch(), nothing.values().len()), (0, 0));
    }
}
