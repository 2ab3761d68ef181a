//! Tensors as safetensors files, between a node and its trainer.

use std::fs;
use std::path::Path;

use paceline_model::Layout;
use paceline_model::spec::{PARAMETERS_MAX, ParamShape};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

/// Bytes that the header of a file may have beside its tensors.
const HEADER_BYTES_MAX: u64 = 16 << 20;

/// Writes all tensors.
pub(super) fn write(layout: &Layout, weights: &[u8], path: &Path) -> Result<(), String> {
    let view = |(shape, own): (&ParamShape, _)| {
        TensorView::new(Dtype::F32, shape.shape.clone(), own).map(|view| (shape.name.clone(), view))
    };
    let views = layout.split(weights).map(view).collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
    let bytes = safetensors::serialize(views, None).map_err(|e| e.to_string())?;
    fs::write(path, bytes).map_err(|error| {
        tracing::error!("{}: {error}", path.display());
        "a file for its trainer can't be written; its log says which".to_owned()
    })
}

/// The tensors of a file, by name: a layout, and the weights in its order.
pub(super) fn read_all(path: &Path) -> Result<(Layout, Vec<u8>), String> {
    let bytes = bytes(path)?;
    let file = parse(&bytes)?;
    let mut tensors: Vec<(String, TensorView<'_>)> = file.tensors();
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    let shapes = tensors.iter().map(|(name, view)| ParamShape { name: name.clone(), shape: view.shape().to_vec() });
    let layout = Layout::new(shapes.collect()).map_err(|error| error.to_string())?;
    let mut weights = Vec::with_capacity(4 * layout.parameters());
    for (name, view) in &tensors {
        append(&mut weights, name, view)?;
    }
    Ok((layout, weights))
}

/// The tensors of a file that must be those of a layout.
pub(super) fn read(layout: &Layout, path: &Path) -> Result<Vec<u8>, String> {
    let bytes = bytes(path)?;
    let file = parse(&bytes)?;
    let mut weights = Vec::with_capacity(4 * layout.parameters());
    for tensor in layout.tensors() {
        let name = &tensor.name;
        let view = file.tensor(name).map_err(|_| format!("tensor `{name}` is missing in what its trainer wrote"))?;
        if view.shape() != tensor.shape {
            let (found, wanted) = (view.shape(), &tensor.shape);
            return Err(format!(
                "tensor `{name}` has shape {found:?} in what its trainer wrote, {wanted:?} in this run"
            ));
        }
        append(&mut weights, name, &view)?;
    }
    match file.names().iter().find(|name| !layout.tensors().iter().any(|t| t.name == **name)) {
        Some(name) => Err(format!("tensor `{name}`, which its trainer wrote, is none of this run's")),
        None => Ok(weights),
    }
}

fn append(weights: &mut Vec<u8>, name: &str, view: &TensorView<'_>) -> Result<(), String> {
    if view.dtype() != Dtype::F32 {
        return Err(format!("tensor `{name}` is of {:?} in what its trainer wrote: write F32", view.dtype()));
    }
    weights.extend_from_slice(view.data());
    Ok(())
}

fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    let most = 4 * PARAMETERS_MAX as u64 + HEADER_BYTES_MAX;
    let len = fs::metadata(path).map_err(|_| "its trainer answered and wrote no file".to_owned())?.len();
    if len > most {
        return Err(format!("its trainer wrote a file of {len} bytes, {most} at most"));
    }
    fs::read(path).map_err(|error| {
        tracing::error!("{}: {error}", path.display());
        "a file of its trainer can't be read; its log says which".to_owned()
    })
}

fn parse(bytes: &[u8]) -> Result<SafeTensors<'_>, String> {
    SafeTensors::deserialize(bytes).map_err(|error| format!("its trainer wrote no safetensors file: {error}"))
}
