use super::*;

#[test]
fn without_a_driver_the_error_says_what_to_do() {
    let error = Functions::open("libcuda-that-is-nowhere.so.1").err().unwrap();
    assert!(error.contains("libcuda-that-is-nowhere.so.1"), "{error}");
    assert!(error.contains("install the driver"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_library_that_is_no_driver_is_told_from_one() {
    let error = Functions::open("libc.so.6").err().unwrap();
    assert!(error.contains("too old or no driver"), "{error}");
}

#[test]
fn bytes_go_to_the_device_and_come_back() {
    let lane = fake::lane();
    let mut from = HostBuffer::new(&lane, 5).unwrap();
    let on_device = DeviceBuffer::new(&lane, 5).unwrap();
    let mut back = HostBuffer::new(&lane, 5).unwrap();
    assert_eq!((from.capacity(), on_device.capacity()), (GRAIN, GRAIN));
    assert_eq!(lane.held(), GRAIN as u64);
    from.as_mut_slice()[..5].copy_from_slice(b"bytes");
    // SAFETY: the fake device copies at once.
    unsafe {
        lane.upload(&from, &on_device, 5).unwrap();
        lane.download(&on_device, &mut back, 5).unwrap();
    }
    lane.synchronize().unwrap();
    assert_eq!(&back.as_slice()[..6], b"bytes\0");
    drop(on_device);
    assert_eq!(lane.held(), 0);
}

#[test]
fn a_device_that_is_not_there_is_named_by_the_call_that_failed() {
    let error = Lane::open(fake::driver(), 1).err().unwrap();
    assert_eq!(error.to_string(), "cuDeviceGet: CUDA_ERROR_OF_A_TEST (101)");
    assert!(!error.is_lost());
}

#[test]
fn errors_after_which_nothing_runs_are_told_from_others() {
    for (status, lost) in [
        (2, false),
        (700, true),
        (719, true),
        (720, false),
        (999, true),
        (46, true),
    ] {
        assert_eq!(fake::error(status).is_lost(), lost, "{status}");
    }
}

#[test]
fn versions_are_read_as_cuda_writes_them() {
    assert_eq!(fake::driver().cuda_version(), "13.0");
}
