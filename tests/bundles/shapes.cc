// Virtual functions, overloads, templates, exceptions that pass through a changed function.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace shapes {
struct Shape {
    virtual ~Shape() = default;
    virtual int area() const = 0;
};
struct Square : Shape {
    int side;
    explicit Square(int side) : side(side) {}
    int area() const override;
};
__attribute__((noinline)) int Square::area() const {
#if VERSION == 2
    if (side > 100) throw std::out_of_range("too large: " + std::to_string(side));
#endif
    return side * side;
}

template <typename T> __attribute__((noinline)) T scaled(T value) {
#if VERSION == 2
    return value * 10;
#else
    return value * 2;
#endif
}

__attribute__((noinline)) int scale(int v) { return scaled<int>(v); }
__attribute__((noinline)) long scale(long v) { return scaled<long>(v); }

static std::vector<std::unique_ptr<Shape>> all;

__attribute__((noinline)) int sum() {
    int total = 0;
    for (auto &shape : all) {
        try {
            total += shape->area();
        } catch (const std::length_error &) {
            total -= 1;
        }
    }
    return total;
}
} // namespace shapes

extern "C" void answer(const char *line);
void answer(const char *line) {
    shapes::all.push_back(std::make_unique<shapes::Square>(std::atoi(line)));
    try {
        std::printf("%d %d %ld\n", shapes::sum(), shapes::scale(1), shapes::scale(2L));
    } catch (const std::exception &error) {
        shapes::all.pop_back();
        std::printf("caught %s\n", error.what());
    }
}
