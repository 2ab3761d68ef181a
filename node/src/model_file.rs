//! Weights in a safetensors file: of an export, which says all about itself, or of whatever else wrote it.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use half::{bf16, f16};
use paceline_model::spec::ParamShape;
use paceline_model::torch::{self, TorchTensor};
use paceline_model::{Layout, NetSpec};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::trained::About;

/// Bytes of a file: those of the largest model in its widest type, and its header.
const FILE_BYTES_MAX: u64 = 9 << 30;

/// The entry of the metadata that an export is described by.
const METADATA: &str = "paceline";

/// What a file holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ModelFile {
    /// What it says about itself, if it is an export.
    pub(crate) about: Option<About>,
    /// Its tensors by name, as f32.
    pub(crate) tensors: Vec<TorchTensor>,
}

impl ModelFile {
    /// Reads a file.
    ///
    /// # Errors
    /// It can't be read, is no safetensors file, or has tensors of another type than f32, f16 and bf16.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        let len = fs::metadata(path).with_context(|| format!("{name} can't be read"))?.len();
        if len > FILE_BYTES_MAX {
            bail!("{name} has {len} bytes, {FILE_BYTES_MAX} at most");
        }
        let bytes = fs::read(path).with_context(|| format!("{name} can't be read"))?;
        // A zip archive, or a pickle of version 2 to 5: what torch.save writes.
        if bytes.starts_with(b"PK\x03\x04") || matches!(bytes.as_slice(), [0x80, 2..=5, ..]) {
            bail!(
                "{name} is a pickle, as torch.save writes it, and reading one can run any program: write the tensors with \
                 safetensors.torch.save_file(net.state_dict(), \"model.safetensors\")"
            );
        }
        let file = SafeTensors::deserialize(&bytes).with_context(|| format!("{name} is no safetensors file"))?;
        let (_, header) =
            SafeTensors::read_metadata(&bytes).with_context(|| format!("{name} is no safetensors file"))?;
        let about = header.metadata().as_ref().and_then(|metadata| metadata.get(METADATA));
        let about = about.map(|text| serde_json::from_str(text)).transpose();
        let about = about.with_context(|| format!("{name}: what it says about itself can't be read"))?;
        let mut tensors: Vec<TorchTensor> = Vec::new();
        for (tensor, view) in file.tensors() {
            let values = values(&view).with_context(|| format!("{name}: tensor `{tensor}`"))?;
            tensors.push(TorchTensor { name: tensor, shape: view.shape().to_vec(), values });
        }
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { about, tensors })
    }

    /// All tensors by name, and their weights.
    ///
    /// # Errors
    /// They are no layout.
    pub(crate) fn all(&self) -> anyhow::Result<(Layout, Vec<u8>)> {
        let shape = |tensor: &TorchTensor| ParamShape { name: tensor.name.clone(), shape: tensor.shape.clone() };
        let layout = Layout::new(self.tensors.iter().map(shape).collect())?;
        let values = self.tensors.iter().flat_map(|tensor| &tensor.values);
        Ok((layout, values.flat_map(|value| value.to_le_bytes()).collect()))
    }

    /// The weights of a net that the run file has, raw little-endian f32 in its order.
    ///
    /// # Errors
    /// A tensor is missing, too many, or of another shape.
    pub(crate) fn of_net(&self, spec: &NetSpec) -> anyhow::Result<Vec<u8>> {
        torch::weights(spec, &self.tensors).map_err(|error| anyhow::anyhow!(error))
    }

    /// The weights of a layout, likewise, whose tensors have the same names and shapes as these.
    ///
    /// # Errors
    /// A tensor is missing, too many, or of another shape.
    pub(crate) fn of_layout(&self, layout: &Layout) -> anyhow::Result<Vec<u8>> {
        let mut weights = Vec::with_capacity(4 * layout.parameters());
        for wanted in layout.tensors() {
            let (name, shape) = (&wanted.name, &wanted.shape);
            let found = self.tensors.iter().find(|tensor| tensor.name == *name);
            let found = found.with_context(|| format!("tensor `{name}` is missing"))?;
            if found.shape != *shape {
                bail!("tensor `{name}` has shape {:?}, and {shape:?} in this run", found.shape);
            }
            weights.extend(found.values.iter().flat_map(|value| value.to_le_bytes()));
        }
        match self.tensors.iter().find(|tensor| !layout.tensors().iter().any(|wanted| wanted.name == tensor.name)) {
            Some(other) => bail!("tensor `{}` is none of this run's", other.name),
            None => Ok(weights),
        }
    }
}

/// A file of these tensors. The same ones give the same bytes.
///
/// # Errors
/// A tensor has another number of values than its shape, which none has.
pub(crate) fn serialized(tensors: &[TorchTensor], about: Option<&About>) -> anyhow::Result<Vec<u8>> {
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|t| t.values.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let view = |(tensor, bytes): (&TorchTensor, _)| {
        Ok((tensor.name.clone(), TensorView::new(Dtype::F32, tensor.shape.clone(), bytes)?))
    };
    let views = tensors.iter().zip(bytes.iter().map(Vec::as_slice)).map(view).collect::<anyhow::Result<Vec<_>>>()?;
    // One entry of metadata: several would come in another order each time.
    let metadata = about.map(|about| anyhow::Ok(HashMap::from([(METADATA.to_owned(), serde_json::to_string(about)?)])));
    Ok(safetensors::serialize(views, metadata.transpose()?)?)
}

/// The values of a tensor as f32, exactly.
fn values(view: &TensorView<'_>) -> anyhow::Result<Vec<f32>> {
    let pairs = || view.data().chunks_exact(2).map(|pair| [pair[0], pair[1]]);
    Ok(match view.dtype() {
        Dtype::F32 => view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::F16 => pairs().map(|pair| f16::from_le_bytes(pair).to_f32()).collect(),
        Dtype::BF16 => pairs().map(|pair| bf16::from_le_bytes(pair).to_f32()).collect(),
        other => bail!("it is of type {other:?}, where F32, F16 and BF16 are read: convert it, or leave it out"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) -> tempfile::NamedTempFile {
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            (*name, TensorView::new(*dtype, shape.clone(), bytes).expect("consistent"))
        });
        let bytes = safetensors::serialize(views, None::<HashMap<String, String>>).expect("it can be written");
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        fs::write(file.path(), bytes).expect("room");
        file
    }

    #[test]
    fn halves_are_read_as_they_are() {
        let half: Vec<u8> = [1.5f32, -0.25].iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
        let brain: Vec<u8> = [3.0f32].iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
        let file = written(&[("b", Dtype::F16, vec![2], half), ("a", Dtype::BF16, vec![1], brain)]);
        let read = ModelFile::read(file.path()).expect("it is sound");
        let values: Vec<(&str, &[f32])> = read.tensors.iter().map(|t| (t.name.as_str(), t.values.as_slice())).collect();
        assert_eq!(values, [("a", &[3.0][..]), ("b", &[1.5, -0.25])]);
        assert_eq!(read.about, None);
    }

    #[test]
    fn tensors_of_another_layout_are_named() {
        let four = |count: usize| vec![0u8; 4 * count];
        let file = written(&[("a", Dtype::F32, vec![2], four(2)), ("b", Dtype::F32, vec![1, 2], four(2))]);
        let read = ModelFile::read(file.path()).expect("it is sound");
        let layout = |tensors: &[(&str, &[usize])]| {
            let shape = |(name, shape): &(&str, &[usize])| ParamShape { name: (*name).into(), shape: shape.to_vec() };
            Layout::new(tensors.iter().map(shape).collect()).expect("it is sound")
        };
        assert_eq!(read.of_layout(&layout(&[("b", &[1, 2]), ("a", &[2])])).expect("it is the same"), four(4));
        for (tensors, expected) in [
            (&[("a", &[2][..])][..], "tensor `b` is none of this run's"),
            (&[("a", &[2]), ("b", &[2])], "tensor `b` has shape [1, 2], and [2] in this run"),
            (&[("a", &[2]), ("b", &[1, 2]), ("c", &[1])], "tensor `c` is missing"),
        ] {
            let error = read.of_layout(&layout(tensors)).expect_err("it is another");
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn a_pickle_a_cut_file_and_other_types_are_refused_with_what_to_do() {
        let refused = |bytes: &[u8]| {
            let file = tempfile::NamedTempFile::new().expect("a temporary file");
            fs::write(file.path(), bytes).expect("room");
            format!("{:#}", ModelFile::read(file.path()).expect_err("it is none"))
        };
        assert!(refused(b"PK\x03\x04rest").contains("safetensors.torch.save_file"));
        assert!(refused(&[0x80, 2, 0x8a]).contains("is a pickle"));
        assert!(refused(b"x").contains("is no safetensors file"));
        let whole = written(&[("a", Dtype::F32, vec![2], vec![0; 8])]);
        let bytes = fs::read(whole.path()).expect("it is there");
        for cut in [0, 8, bytes.len() - 1] {
            assert!(refused(&bytes[..cut]).contains("is no safetensors file"), "cut at {cut}");
        }
        let file = written(&[("n", Dtype::I64, vec![1], vec![0; 8])]);
        let error = format!("{:#}", ModelFile::read(file.path()).expect_err("it is of whole numbers"));
        assert!(error.contains("tensor `n`: it is of type I64"), "{error}");
    }
}
