# dr_cuda: the kernels of csrc/ops/cuda.
#   ON         nvcc compiles them for DREAM_R_CUDA_ARCHITECTURES; the runtime is linked statically, so the build
#              imports on a machine without a GPU.
#   emulated   the C++ compiler compiles the same files against tests/cuda_emulation, which runs them
#              on the CPU: how they are tested where there is no GPU.
file(GLOB kernels CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/csrc/ops/cuda/*.cu)
if(DREAM_R_CUDA STREQUAL "emulated")
  if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    message(FATAL_ERROR "DREAM_R_CUDA=emulated switches stacks as x86-64 does")
  endif()
  set(emulation ${CMAKE_SOURCE_DIR}/tests/cuda_emulation)
  add_library(dr_cuda_runtime STATIC ${emulation}/block.cc ${emulation}/device.cc ${emulation}/fiber.cc
    ${emulation}/graph.cc)
  target_include_directories(dr_cuda_runtime PUBLIC ${emulation}/include ${emulation})
  target_link_libraries(dr_cuda_runtime PUBLIC Threads::Threads)
  set_source_files_properties(${kernels} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS
    "-Wno-unknown-pragmas;-fsanitize=alignment,bounds;-fno-sanitize-recover=all")
  target_link_options(dr_cuda_runtime PUBLIC -fsanitize=alignment,bounds)
  # Its headers stand before ours: ops/cuda/ptx.cuh is the emulated one.
  target_include_directories(dr_core BEFORE PUBLIC ${emulation}/include)
else()
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  set(CMAKE_CUDA_STANDARD 20)
  add_library(dr_cuda_runtime INTERFACE)
  target_link_libraries(dr_cuda_runtime INTERFACE CUDA::cudart_static)
endif()
add_library(dr_cuda STATIC ${kernels})
set(DREAM_R_CUDA_ARCHITECTURES "80;90a" CACHE STRING "What nvcc compiles for")
set_target_properties(dr_cuda PROPERTIES CUDA_ARCHITECTURES "${DREAM_R_CUDA_ARCHITECTURES}" CUDA_RUNTIME_LIBRARY Static)
target_link_libraries(dr_cuda PUBLIC dr_core dr_ops)  # each needs the other: what rows lie where is for ops to say
target_sources(dr_core PRIVATE ${CMAKE_SOURCE_DIR}/csrc/core/cuda/graph.cc
  ${CMAKE_SOURCE_DIR}/csrc/core/cuda/runtime.cc)
target_compile_definitions(dr_core PUBLIC DREAM_R_HAS_CUDA=1)
target_link_libraries(dr_core PUBLIC dr_cuda_runtime)
set(cuda_kernels dr_cuda)
