//! Results don't depend on the number of threads.

use super::{plain, random, stream, values};
use crate::kernels::conv::{ConvLayer, Epilogue, conv};
use crate::threads::Threads;

#[test]
fn kernels_give_the_same_bits_for_any_number_of_threads() {
    let run = |count: usize| {
        Threads::new(count).expect("threads").run(|| {
            let mut stream = stream();
            let [x, weight, bias] = [&[50, 9, 8, 5][..], &[3, 3, 5, 6], &[6]].map(|shape| random(&mut stream, shape));
            let layer = ConvLayer { epilogue: Epilogue::Pool { relu: true, size: 2 }, ..plain(1, 1) };
            let y = conv(x.as_tensor(), weight.as_tensor(), bias.as_tensor(), layer, None).expect("possible");
            let gradients = y.sqr().and_then(|y| y.sum_all()?.backward()).expect("tracked");
            let all = [&x, &weight, &bias].map(|var| values(gradients.get(var.as_tensor()).expect("tracked")));
            all.concat().iter().map(|value| value.to_bits()).collect::<Vec<_>>()
        })
    };
    let one = run(1);
    assert!((2..=4).all(|count| run(count) == one));
}
