//! The binary: the allocator and one call into the library.

#[global_allocator]
static ALLOCATOR: datakeeper::app::Allocator = datakeeper::app::Allocator;

fn main() -> std::process::ExitCode {
    datakeeper::app::main()
}
