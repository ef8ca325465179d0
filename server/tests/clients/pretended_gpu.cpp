// A GPU of the host's memory: NVIDIA's driver, CUDA's runtime, cuBLAS and NVML, as far as ONNX Runtime's CUDA provider and
// the server call them. test_gpu.py puts it where their libraries are looked for.
//
// It is stricter than a GPU where a mistake could go unseen on one:
// - what is sent to a stream happens later, on a thread of the stream, so whoever does not wait reads what is not there yet;
// - the device's addresses cannot be read by the host;
// - fresh memory holds 0xA5, freed memory 0x5A; what is freed twice, or never was there, ends the process;
// - while a stream is captured in the global mode, calls that CUDA calls unsafe fail on every thread.
//
// Matrix products, copies and graphs of them compute. Kernels do nothing. PRETENDED_MEMORY: bytes of the device.
// PRETENDED_LOST: once this file is there, calls fail as after an illegal access. PRETENDED_UNRECORDABLE: matrix products cannot be
// captured. PRETENDED_LOG: a line for each of the calls that tests look for.

#include <cuda_runtime_api.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

namespace {

using Op = std::function<void()>;
using Byte = unsigned char;
using Lock = std::lock_guard<std::mutex>;

// Statuses that the driver and the runtime share.
const int OK = 0, OUT_OF_MEMORY = 2, NO_CONTEXT = 201, ILLEGAL_ADDRESS = 700, NOT_SUPPORTED = 801, CAPTURING = 900,
          CAPTURE_INVALIDATED = 901;

const useconds_t PAUSE_US = 200;
const size_t SPACE = size_t(16) << 30;

[[noreturn]] void broken(const char* rule) {
    fprintf(stderr, "pretended GPU: %s\n", rule);
    abort();
}

void note(const char* what) {
    static const bool noted = getenv("PRETENDED_LOG") != nullptr;
    if (noted) fprintf(stderr, "pretended GPU: %s\n", what);
}

// As after an illegal access, from which no process recovers.
bool is_lost() {
    static const char* file = getenv("PRETENDED_LOST");
    static std::atomic<bool> lost;
    if (file && access(file, F_OK) == 0) lost = true;
    return lost;
}

// ---------------------------------------------------------------------------------------------------------------- memory

struct Memory {
    // The device's addresses, and where their bytes are.
    Byte *there, *bytes;
    size_t total = size_t(8) << 30, taken = 0, used_up = 0;
    std::map<Byte*, size_t> blocks, pinned;
    std::map<size_t, std::vector<Byte*>> freed;
    std::mutex lock;

    Memory() {
        auto reserve = [](int access) {
            return (Byte*)mmap(nullptr, SPACE, access, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        };
        there = reserve(PROT_NONE);
        bytes = reserve(PROT_READ | PROT_WRITE);
        if (const char* text = getenv("PRETENDED_MEMORY")) total = strtoull(text, nullptr, 10);
    }

    bool has(const void* p) const { return (Byte*)p >= there && (Byte*)p < there + SPACE; }

    template <class T>
    T* real(T* p) const {
        return has(p) ? (T*)((Byte*)p - there + bytes) : p;
    }

    void* take(size_t size) {
        Lock held(lock);
        size = (size ? size + 511 : 512) / 512 * 512;
        if (taken + size > total) return nullptr;
        auto& same = freed[size];
        Byte* p = there + used_up;
        if (!same.empty()) {
            p = same.back();
            same.pop_back();
        } else if ((used_up += size) > SPACE) {
            broken("out of addresses");
        }
        memset(real(p), 0xA5, size);
        taken += size;
        blocks[p] = size;
        return p;
    }

    void give(void* p) {
        Lock held(lock);
        auto found = blocks.find((Byte*)p);
        if (found == blocks.end()) broken("memory is freed that is not allocated");
        memset(real((Byte*)p), 0x5A, found->second);
        taken -= found->second;
        freed[found->second].push_back((Byte*)p);
        blocks.erase(found);
    }

    void* pin(size_t size) {
        void* p = aligned_alloc(4096, (size + 4095) / 4096 * 4096);
        Lock held(lock);
        pinned[(Byte*)p] = size;
        return p;
    }

    void unpin(void* p) {
        Lock held(lock);
        if (!pinned.erase((Byte*)p)) broken("memory is freed that is not page-locked");
        free(p);
    }

    bool is_pinned(const void* p) {
        Lock held(lock);
        auto after = pinned.upper_bound((Byte*)p);
        if (after == pinned.begin()) return false;
        auto [start, size] = *std::prev(after);
        return (Byte*)p < start + size;
    }
};

Memory& memory() {
    static Memory memory;
    return memory;
}

void copy(void* to, const void* from, size_t bytes) {
    memmove(memory().real((Byte*)to), memory().real((const Byte*)from), bytes);
}

// --------------------------------------------------------------------------------------------------------------- streams

using Graph = std::vector<Op>;

struct Stream {
    const bool blocking;
    std::unique_ptr<Graph> capture;

    explicit Stream(bool blocking) : blocking(blocking), worker([this] { serve(); }) {}

    ~Stream() {
        {
            Lock held(lock);
            ending = true;
        }
        wake.notify_all();
        worker.join();
    }

    void push(Op op) {
        Lock held(lock);
        if (capture) return capture->push_back(std::move(op));
        ops.push_back(std::move(op));
        wake.notify_all();
    }

    void wait() {
        std::unique_lock<std::mutex> held(lock);
        idle.wait(held, [this] { return ops.empty() && !busy; });
    }

   private:
    std::deque<Op> ops;
    bool busy = false, ending = false;
    std::mutex lock;
    std::condition_variable wake, idle;
    std::thread worker;

    void serve() {
        std::unique_lock<std::mutex> held(lock);
        while (true) {
            wake.wait(held, [this] { return ending || !ops.empty(); });
            if (ops.empty()) return;
            Op op = std::move(ops.front());
            ops.pop_front();
            busy = true;
            held.unlock();
            usleep(PAUSE_US);
            op();
            held.lock();
            busy = false;
            if (ops.empty()) idle.notify_all();
        }
    }
};

struct Streams {
    std::set<Stream*> all;
    int captures = 0;
    std::mutex lock;
    Stream* legacy = nullptr;
};

Streams& streams() {
    static Streams streams;
    return streams;
}

Stream* make_stream(bool blocking) {
    auto* stream = new Stream(blocking);
    Lock held(streams().lock);
    streams().all.insert(stream);
    return stream;
}

// 0, 1 and 2 name streams that are always there.
Stream* of(void* handle) {
    if ((uintptr_t)handle > 2) return (Stream*)handle;
    static Stream* legacy = make_stream(true);
    return legacy;
}

void end_stream(void* handle) {
    {
        Lock held(streams().lock);
        if (!streams().all.erase((Stream*)handle)) broken("a stream is destroyed that is not there");
    }
    of(handle)->wait();
    delete (Stream*)handle;
}

void wait_for_all(bool only_blocking) {
    std::set<Stream*> all;
    {
        Lock held(streams().lock);
        all = streams().all;
    }
    for (auto* stream : all)
        if (stream->blocking || !only_blocking) stream->wait();
}

// What a call that takes, gives or waits for everything returns first.
int unsafe_call() {
    if (is_lost()) return ILLEGAL_ADDRESS;
    Lock held(streams().lock);
    if (streams().captures) note("an unsafe call while a stream is captured");
    return streams().captures ? CAPTURING : OK;
}

int synchronize(void* handle) {
    if (is_lost()) return ILLEGAL_ADDRESS;
    if (of(handle)->capture) return CAPTURING;
    of(handle)->wait();
    return OK;
}

int copy_async(void* to, const void* from, size_t bytes, void* handle) {
    Stream* stream = of(handle);
    bool from_pageable = !memory().has(from) && !memory().is_pinned(from);
    bool to_pageable = !memory().has(to) && !memory().is_pinned(to);
    if ((from_pageable || to_pageable) && stream->capture) return CAPTURING;
    if (from_pageable) {
        // It is read before the call returns.
        auto staged = std::make_shared<std::vector<Byte>>((const Byte*)from, (const Byte*)from + bytes);
        stream->push([=] { copy(to, staged->data(), bytes); });
    } else {
        stream->push([=] { copy(to, from, bytes); });
    }
    if (to_pageable) stream->wait();
    return OK;
}

struct Event {
    long recorded = 0, done = 0;
    std::mutex lock;
    std::condition_variable changed;

    long last() {
        Lock held(lock);
        return recorded;
    }
    long record() {
        Lock held(lock);
        return ++recorded;
    }
    void reach(long number) {
        Lock held(lock);
        done = std::max(done, number);
        changed.notify_all();
    }
    void wait(long number) {
        std::unique_lock<std::mutex> held(lock);
        changed.wait(held, [=] { return done >= number; });
    }
};

thread_local cudaError_t last_error = cudaSuccess;
thread_local void* current_context = nullptr;
int context;

cudaError_t say(int status) {
    if (status) last_error = (cudaError_t)status;
    return (cudaError_t)status;
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------- driver

#define IN_CONTEXT \
    if (!current_context) return NO_CONTEXT

API cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);

API int cuInit(unsigned) { return OK; }
API int cuDriverGetVersion(int* version) { return *version = 13000, OK; }
API int cuDeviceGetCount(int* count) { return *count = 1, OK; }
API int cuDeviceGet(int* device, int index) { return *device = index, index ? 101 : OK; }
API int cuDevicePrimaryCtxRetain(void** there, int) { return *there = &context, OK; }
API int cuDevicePrimaryCtxRelease_v2(int) { return OK; }
API int cuCtxSetCurrent(void* wanted) { return current_context = wanted, OK; }
API int cuTensorMapEncodeTiled() { return NOT_SUPPORTED; }

API int cuGetErrorName(int status, const char** name) {
    *name = status == OUT_OF_MEMORY     ? "CUDA_ERROR_OUT_OF_MEMORY"
            : status == ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS"
            : status == CAPTURING       ? "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"
                                        : "CUDA_ERROR_UNKNOWN";
    return OK;
}

API int cuStreamCreate(void** stream, unsigned flags) {
    IN_CONTEXT;
    return *stream = make_stream(flags == 0), OK;
}
API int cuStreamDestroy_v2(void* stream) {
    IN_CONTEXT;
    return end_stream(stream), OK;
}
API int cuStreamEndCapture(void* stream, void** graph) {
    IN_CONTEXT;
    if (!of(stream)->capture) return 401;
    return cudaStreamEndCapture((cudaStream_t)stream, (cudaGraph_t*)graph), CAPTURE_INVALIDATED;
}
API int cuGraphDestroy(void* graph) { return delete (Graph*)graph, OK; }
API int cuStreamSynchronize(void* stream) {
    IN_CONTEXT;
    return synchronize(stream);
}
API int cuMemAlloc_v2(void** p, size_t bytes) {
    IN_CONTEXT;
    if (int status = unsafe_call()) return status;
    return (*p = memory().take(bytes)) ? OK : OUT_OF_MEMORY;
}
API int cuMemFree_v2(void* p) {
    IN_CONTEXT;
    if (int status = unsafe_call()) return status;
    wait_for_all(false);
    return memory().give(p), OK;
}
API int cuMemHostAlloc(void** p, size_t bytes, unsigned) {
    IN_CONTEXT;
    if (int status = unsafe_call()) return status;
    return *p = memory().pin(bytes), OK;
}
API int cuMemFreeHost(void* p) {
    IN_CONTEXT;
    if (int status = unsafe_call()) return status;
    wait_for_all(false);
    return memory().unpin(p), OK;
}
API int cuMemcpyHtoDAsync_v2(void* to, const void* from, size_t bytes, void* stream) {
    IN_CONTEXT;
    return copy_async(to, from, bytes, stream);
}
API int cuMemcpyDtoHAsync_v2(void* to, void* from, size_t bytes, void* stream) {
    IN_CONTEXT;
    return copy_async(to, from, bytes, stream);
}

// ------------------------------------------------------------------------------------------------------------------ NVML

API int nvmlInit_v2() { return OK; }
API int nvmlShutdown() { return OK; }
API int nvmlDeviceGetCount_v2(unsigned* count) { return *count = 1, OK; }
API int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) { return *device = &context, index ? 2 : OK; }
API int nvmlDeviceGetUUID(void*, char* text, unsigned room) { return snprintf(text, room, "GPU-pretended"), OK; }
API int nvmlDeviceGetUtilizationRates(void*, unsigned* percent) { return percent[0] = 25, percent[1] = 5, OK; }
API int nvmlDeviceGetPowerUsage(void*, unsigned* milliwatts) { return *milliwatts = 70500, OK; }
API int nvmlDeviceGetEnforcedPowerLimit(void*, unsigned* milliwatts) { return *milliwatts = 700000, OK; }

API int nvmlDeviceGetMemoryInfo(void*, unsigned long long* bytes) {
    Lock held(memory().lock);
    bytes[0] = memory().total, bytes[2] = memory().taken, bytes[1] = bytes[0] - bytes[2];
    return OK;
}
API int nvmlDeviceGetTotalEnergyConsumption(void*, unsigned long long* millijoules) {
    static unsigned long long spent = 1000;
    return *millijoules = spent += 2000, OK;
}

// --------------------------------------------------------------------------------------------------------------- runtime

API cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
API cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
API cudaError_t cudaSetDevice(int device) {
    if (device) return say(cudaErrorInvalidDevice);
    current_context = &context;
    return cudaSuccess;
}
API cudaError_t cudaDriverGetVersion(int* version) { return *version = 13000, cudaSuccess; }
API cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 13000, cudaSuccess; }
API cudaError_t cudaGetLastError() {
    auto error = last_error;
    last_error = cudaSuccess;
    return error;
}
API cudaError_t cudaPeekAtLastError() { return last_error; }
API const char* cudaGetErrorName(cudaError_t error) {
    const char* name;
    cuGetErrorName(error, &name);
    return name;
}
API const char* cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorMemoryAllocation ? "out of memory"
           : error == ILLEGAL_ADDRESS         ? "an illegal memory access was encountered"
           : error == CAPTURING               ? "operation not permitted when stream is capturing"
                                              : "not pretended";
}

API cudaError_t cudaGetDeviceProperties(cudaDeviceProp* of, int device) {
    if (device) return say(cudaErrorInvalidDevice);
    memset(of, 0, sizeof *of);
    strcpy(of->name, "a GPU of the host's memory");
    of->major = 9;
    of->totalGlobalMem = memory().total;
    of->multiProcessorCount = 4;
    of->maxThreadsPerBlock = of->maxThreadsDim[0] = of->maxThreadsDim[1] = 1024;
    of->maxThreadsDim[2] = 64;
    of->maxThreadsPerMultiProcessor = 2048;
    of->maxGridSize[0] = INT32_MAX;
    of->maxGridSize[1] = of->maxGridSize[2] = 65535;
    of->warpSize = 32;
    of->regsPerBlock = 65536;
    of->sharedMemPerBlock = 49152;
    of->sharedMemPerBlockOptin = of->sharedMemPerMultiprocessor = 232448;
    of->l2CacheSize = 1 << 20;
    of->unifiedAddressing = 1;
    return cudaSuccess;
}
API cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    const std::map<int, int> known = {
        {cudaDevAttrComputeCapabilityMajor, 9},        {cudaDevAttrMultiProcessorCount, 4},
        {cudaDevAttrMaxThreadsPerBlock, 1024},         {cudaDevAttrMaxThreadsPerMultiProcessor, 2048},
        {cudaDevAttrMaxSharedMemoryPerBlock, 49152},   {cudaDevAttrMaxSharedMemoryPerBlockOptin, 232448},
        {cudaDevAttrWarpSize, 32},
    };
    auto found = known.find(attribute);
    return *value = found == known.end() ? 0 : found->second, cudaSuccess;
}

API cudaError_t cudaMalloc(void** p, size_t bytes) {
    if (int status = unsafe_call()) return say(status);
    return (*p = memory().take(bytes)) ? cudaSuccess : say(OUT_OF_MEMORY);
}
API cudaError_t cudaFree(void* p) {
    if (!p) return cudaSuccess;
    if (int status = unsafe_call()) return say(status);
    wait_for_all(false);
    return memory().give(p), cudaSuccess;
}
API cudaError_t cudaMallocHost(void** p, size_t bytes) {
    if (int status = unsafe_call()) return say(status);
    return *p = memory().pin(bytes), cudaSuccess;
}
API cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) { return cudaMallocHost(p, bytes); }
API cudaError_t cudaFreeHost(void* p) {
    if (!p) return cudaSuccess;
    wait_for_all(false);
    return memory().unpin(p), cudaSuccess;
}
API cudaError_t cudaMemGetInfo(size_t* left, size_t* total) {
    Lock held(memory().lock);
    *total = memory().total;
    return *left = *total - memory().taken, cudaSuccess;
}
API cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* of, const void* p) {
    memset(of, 0, sizeof *of);
    of->type = memory().has(p)         ? cudaMemoryTypeDevice
               : memory().is_pinned(p) ? cudaMemoryTypeHost
                                       : cudaMemoryTypeUnregistered;
    of->devicePointer = of->hostPointer = (void*)p;
    return cudaSuccess;
}

API cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
    if (int status = unsafe_call()) return say(status);
    wait_for_all(true);
    return copy(to, from, bytes), cudaSuccess;
}
API cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
    return say(copy_async(to, from, bytes, stream));
}
API cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height,
                                  cudaMemcpyKind, cudaStream_t stream) {
    int status = OK;
    for (size_t row = 0; row < height && !status; row++)
        status = copy_async((Byte*)to + row * to_pitch, (const Byte*)from + row * from_pitch, width, stream);
    return say(status);
}
API cudaError_t cudaMemset(void* p, int value, size_t bytes) {
    wait_for_all(true);
    return memset(memory().real((Byte*)p), value, bytes), cudaSuccess;
}
API cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream) {
    of(stream)->push([=] { memset(memory().real((Byte*)p), value, bytes); });
    return cudaSuccess;
}

API cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
    note("ONNX Runtime makes a stream of its own");
    return *stream = (cudaStream_t)make_stream(flags == 0), cudaSuccess;
}
API cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, 0); }
API cudaError_t cudaStreamDestroy(cudaStream_t stream) { return end_stream(stream), cudaSuccess; }
API cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return say(synchronize(stream)); }
API cudaError_t cudaDeviceSynchronize() {
    if (int status = unsafe_call()) return say(status);
    return wait_for_all(false), cudaSuccess;
}
API cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
    return of(stream)->push([=] { function(data); }), cudaSuccess;
}

API cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return *event = (cudaEvent_t) new Event, cudaSuccess; }
API cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
// Streams may still hold it.
API cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
API cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t) { return *ms = 1, cudaSuccess; }
API cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    auto* recorded = (Event*)event;
    long number = recorded->record();
    return of(stream)->push([=] { recorded->reach(number); }), cudaSuccess;
}
API cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) { return cudaEventRecord(event, stream); }
API cudaError_t cudaEventSynchronize(cudaEvent_t event) { return ((Event*)event)->wait(((Event*)event)->last()), cudaSuccess; }
API cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    auto* awaited = (Event*)event;
    long number = awaited->last();
    return of(stream)->push([=] { awaited->wait(number); }), cudaSuccess;
}

API cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
    note("a capture begins");
    // Long enough for calls of other threads to fall into it.
    usleep(20 * PAUSE_US);
    of(stream)->capture = std::make_unique<Graph>();
    Lock held(streams().lock);
    if (mode == cudaStreamCaptureModeGlobal) streams().captures++;
    return cudaSuccess;
}
API cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    usleep(20 * PAUSE_US);
    *graph = (cudaGraph_t)of(stream)->capture.release();
    Lock held(streams().lock);
    if (streams().captures) streams().captures--;
    return cudaSuccess;
}
API cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
    *status = of(stream)->capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
API cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long) {
    return *made = (cudaGraphExec_t) new Graph(*(Graph*)graph), cudaSuccess;
}
API cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
    note("a graph is launched");
    for (auto& op : *(Graph*)graph) of(stream)->push(op);
    return cudaSuccess;
}
API cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete (Graph*)graph, cudaSuccess; }
API cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
    if (is_lost()) return say(ILLEGAL_ADDRESS);
    return delete (Graph*)graph, cudaSuccess;
}

// Kernels: known, launched, and nothing.
API void** __cudaRegisterFatBinary(void*) {
    static void* handle;
    return &handle;
}
API void __cudaRegisterFatBinaryEnd(void**) {}
API void __cudaUnregisterFatBinary(void**) {}
API void __cudaRegisterFunction(void**, const char*, char*, const char*, int, void*, void*, void*, void*, int*) {}
API void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
struct Configuration {
    dim3 grid, block;
    size_t shared;
    cudaStream_t stream;
};
static thread_local std::vector<Configuration> pushed;
API unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
    pushed.push_back({grid, block, shared, stream});
    return 0;
}
API cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
    auto last = pushed.back();
    pushed.pop_back();
    *grid = last.grid, *block = last.block, *shared = last.shared, *(cudaStream_t*)stream = last.stream;
    return cudaSuccess;
}
API cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) { return *kernel = (cudaKernel_t)function, cudaSuccess; }
static cudaError_t launch(cudaStream_t stream) { return of(stream)->push([] {}), cudaSuccess; }
API cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void**, size_t, cudaStream_t stream) { return launch(stream); }
API cudaError_t cudaLaunchKernel(const void*, dim3, dim3, void**, size_t, cudaStream_t stream) { return launch(stream); }
API cudaError_t cudaLaunchCooperativeKernel(const void*, dim3, dim3, void**, size_t, cudaStream_t stream) { return launch(stream); }
API cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* how, const void*, void**) { return launch(how->stream); }
API cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* of, const void*) {
    memset(of, 0, sizeof *of);
    of->maxThreadsPerBlock = 1024;
    return of->binaryVersion = of->ptxVersion = 90, cudaSuccess;
}
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int, size_t, unsigned) {
    return *blocks = 2, cudaSuccess;
}
API cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }

// What the provider is linked with and no test needs.
#define NOT_PRETENDED(name)              \
    API int not_pretended_##name() asm(#name); \
    int not_pretended_##name() { return note(#name " is not pretended"), NOT_SUPPORTED; }
NOT_PRETENDED(cudaFreeAsync)
NOT_PRETENDED(cudaGetDriverEntryPointByVersion)
NOT_PRETENDED(cudaKernelSetAttributeForDevice)
NOT_PRETENDED(cudaLibraryGetKernel)
NOT_PRETENDED(cudaLibraryLoadData)
NOT_PRETENDED(cudaLibraryUnload)
NOT_PRETENDED(cudaMallocFromPoolAsync)
NOT_PRETENDED(cudaMemcpyFromSymbol)
NOT_PRETENDED(cudaMemPoolCreate)
NOT_PRETENDED(cudaMemPoolDestroy)
NOT_PRETENDED(cudaMemPoolGetAttribute)
NOT_PRETENDED(cudaMemPoolSetAttribute)
NOT_PRETENDED(cudaMemPoolTrimTo)

// ---------------------------------------------------------------------------------------------------------------- cuBLAS

struct Blas {
    void* stream = nullptr;
    int mode = 0;
};

API int cublasCreate_v2(Blas** handle) { return *handle = new Blas, OK; }
API int cublasDestroy_v2(Blas* handle) { return delete handle, OK; }
API int cublasSetStream_v2(Blas* handle, void* stream) { return handle->stream = stream, OK; }
API int cublasGetMathMode(Blas* handle, int* mode) { return *mode = handle->mode, OK; }
API int cublasSetMathMode(Blas* handle, int mode) { return handle->mode = mode, OK; }
API const char* cublasGetStatusName(int) { return "CUBLAS_STATUS_NOT_SUPPORTED"; }
API const char* cublasGetStatusString(int) { return "not pretended"; }
API int cublasLtCreate(void** handle) { return *handle = &context, OK; }
API int cublasLtDestroy(void*) { return OK; }

// C = alpha · A · B + beta · C, column by column.
template <class T>
static int multiply(Blas* handle, bool a_turned, bool b_turned, int m, int n, int k, const T* alpha, const T* a, int a_rows,
                    long long a_next, const T* b, int b_rows, long long b_next, const T* beta, T* c, int c_rows, long long c_next,
                    int count) {
    static const bool unrecordable = getenv("PRETENDED_UNRECORDABLE") != nullptr;
    if (unrecordable && of(handle->stream)->capture) return NOT_SUPPORTED;
    T by = *alpha, keep = *beta;
    of(handle->stream)->push([=] {
        const T *left = memory().real(a), *right = memory().real(b);
        T* out = memory().real(c);
        for (int number = 0; number < count; number++, left += a_next, right += b_next, out += c_next)
            for (int column = 0; column < n; column++)
                for (int row = 0; row < m; row++) {
                    double sum = 0;
                    for (int i = 0; i < k; i++)
                        sum += double(a_turned ? left[i + size_t(row) * a_rows] : left[row + size_t(i) * a_rows]) *
                               double(b_turned ? right[column + size_t(i) * b_rows] : right[i + size_t(column) * b_rows]);
                    T& place = out[row + size_t(column) * c_rows];
                    place = T(by * sum + (keep == T(0) ? T(0) : keep * place));
                }
    });
    return OK;
}

#define MULTIPLY(T, one, many)                                                                                                \
    API int one(Blas* handle, int a_turned, int b_turned, int m, int n, int k, const T* alpha, const T* a, int a_rows,         \
                const T* b, int b_rows, const T* beta, T* c, int c_rows) {                                                     \
        return multiply<T>(handle, a_turned, b_turned, m, n, k, alpha, a, a_rows, 0, b, b_rows, 0, beta, c, c_rows, 0, 1);     \
    }                                                                                                                          \
    API int many(Blas* handle, int a_turned, int b_turned, int m, int n, int k, const T* alpha, const T* a, int a_rows,        \
                 long long a_next, const T* b, int b_rows, long long b_next, const T* beta, T* c, int c_rows,                  \
                 long long c_next, int count) {                                                                                \
        return multiply<T>(handle, a_turned, b_turned, m, n, k, alpha, a, a_rows, a_next, b, b_rows, b_next, beta, c, c_rows,  \
                           c_next, count);                                                                                     \
    }
MULTIPLY(float, cublasSgemm_v2, cublasSgemmStridedBatched)
MULTIPLY(double, cublasDgemm_v2, cublasDgemmStridedBatched)

NOT_PRETENDED(cublasDgeam)
NOT_PRETENDED(cublasDgemmBatched)
NOT_PRETENDED(cublasDgetrfBatched)
NOT_PRETENDED(cublasDgetriBatched)
NOT_PRETENDED(cublasGemmBatchedEx)
NOT_PRETENDED(cublasGemmEx)
NOT_PRETENDED(cublasGemmStridedBatchedEx)
NOT_PRETENDED(cublasScopy_v2)
NOT_PRETENDED(cublasSgeam)
NOT_PRETENDED(cublasSgemmBatched)
NOT_PRETENDED(cublasSgetrfBatched)
NOT_PRETENDED(cublasSgetriBatched)
NOT_PRETENDED(cublasSscal_v2)
NOT_PRETENDED(cublasLtMatmul)
NOT_PRETENDED(cublasLtMatmulAlgoConfigSetAttribute)
NOT_PRETENDED(cublasLtMatmulAlgoGetHeuristic)
NOT_PRETENDED(cublasLtMatmulAlgoInit)
NOT_PRETENDED(cublasLtMatmulDescCreate)
NOT_PRETENDED(cublasLtMatmulDescDestroy)
NOT_PRETENDED(cublasLtMatmulDescSetAttribute)
NOT_PRETENDED(cublasLtMatmulPreferenceCreate)
NOT_PRETENDED(cublasLtMatmulPreferenceDestroy)
NOT_PRETENDED(cublasLtMatmulPreferenceSetAttribute)
NOT_PRETENDED(cublasLtMatrixLayoutCreate)
NOT_PRETENDED(cublasLtMatrixLayoutDestroy)
NOT_PRETENDED(cublasLtMatrixLayoutSetAttribute)
NOT_PRETENDED(cublasLtMatrixTransform)
NOT_PRETENDED(cublasLtMatrixTransformDescCreate)
NOT_PRETENDED(cublasLtMatrixTransformDescDestroy)
