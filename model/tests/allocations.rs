//! What a training step takes from the allocator: after the first one always the same, and all of it is given back.

use std::ops::ControlFlow;

use allocation_counter::AllocationInfo;
use paceline_model::{Device, Model, NetSpec, Preprocess, Source, Task, Threads, TrainConfig, TrainJob, load, train};

/// Images a step.
const BATCH: usize = 10;

/// What a training of so many steps takes.
fn taken(arch: &str, steps: usize) -> AllocationInfo {
    let whole = load(&Source::Shapes { samples: BATCH * 10 }, None, 1).expect("it is generated").train;
    let data = whole.select(&(0..(BATCH * steps) as u32).collect::<Vec<_>>());
    let spec = NetSpec::preset(arch, data.shape(), data.classes()).expect("it fits");
    let parent = Model::initial(&spec, &Device::Cpu, 1).and_then(|model| model.to_bytes()).expect("a model");
    let config = TrainConfig::sgd(1, BATCH, 0.01);
    let task = Task::plain(1, 1, b"node", &parent);
    let job = TrainJob {
        task,
        spec: &spec,
        preprocess: Preprocess::for_preset(arch, data.shape()),
        data: &data,
        config: &config,
        device: &Device::Cpu,
    };
    // The counter belongs to a thread: the whole training runs on the one that it counts for.
    let threads = Threads::new(1).expect("a thread");
    let run = || train(&job, &threads, &mut |_| ControlFlow::Continue(())).map(|_| ()).expect("it trains");
    threads.run(|| {
        // What a thread keeps for good is there after the first training.
        run();
        allocation_counter::measure(run)
    })
}

#[test]
fn every_step_takes_as_much_as_the_one_before_and_gives_it_back() {
    for arch in ["cifar-cnn", "mnist-cnn", "resnet8"] {
        let [few, more, most] = [2, 5, 8].map(|steps| taken(arch, steps));
        let per_step =
            |a: &AllocationInfo, b: &AllocationInfo| [b.count_total - a.count_total, b.bytes_total - a.bytes_total];
        let [count, bytes] = per_step(&few, &more).map(|three| three / 3);
        println!("{arch}: a step of {BATCH} images takes {count} pieces, {bytes} bytes");
        assert_eq!(per_step(&few, &more), per_step(&more, &most), "{arch}");
        assert_eq!([few.bytes_current, most.bytes_current], [0, 0], "{arch}");
        // The most that is held at once is that of one step, however many there are: what it may differ by is the
        // order of the images, four bytes each, and the order in which candle's graph is dropped, whose tables have
        // random keys.
        assert!(most.bytes_max.abs_diff(few.bytes_max) < 4_096, "{arch}: {} and {}", few.bytes_max, most.bytes_max);
    }
}
