// A function that is bound by its first call gets its arguments, gives its result, and may throw, as any other.
// build: lazy_called -DCALLED
// build: lazy_calls
// needs: lazy_called

#include <cerrno>
#include <cfenv>
#include <complex>
#include <cstdarg>

struct Pair {
    long first, second;
};
struct Mixed {
    double first;
    long second;
};
struct Large {
    long words[5];
};

extern "C" {
double sum_of_doubles(double, double, double, double, double, double, double, double, double, double);
double sum_of_some(int count, ...);
long double long_sum(long double, long double);
Pair pair_of(long, long);
Mixed mixed_of(double, long);
Large large_of(long);
std::complex<double> square(std::complex<double>);
int rounding(void);
int last_error(void);
void throw_number(int);
void call_back(void (*)(void *), void *);
int *first_time(void);
}

#if defined CALLED
double sum_of_doubles(double a, double b, double c, double d, double e, double f, double g, double h, double i, double j) {
    return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h + 9 * i + 10 * j;
}
double sum_of_some(int count, ...) {
    va_list list;
    va_start(list, count);
    double sum = 0;
    while (count-- > 0)
        sum += va_arg(list, double);
    va_end(list);
    return sum;
}
long double long_sum(long double a, long double b) { return a + b; }
Pair pair_of(long first, long second) { return {first, second}; }
Mixed mixed_of(double first, long second) { return {first, second}; }
Large large_of(long word) { return {{word, word + 1, word + 2, word + 3, word + 4}}; }
std::complex<double> square(std::complex<double> number) { return number * number; }
int rounding() { return std::fegetround(); }
int last_error() { return errno; }
void throw_number(int number) { throw number; }
void call_back(void (*function)(void *), void *argument) { function(argument); }
int *first_time() {
    static int number = 42;
    return &number;
}
#else
extern "C" int sums() {
    double doubles = sum_of_doubles(1, 2, 3, 4, 5, 6, 7, 8, 9, 10);
    return doubles == 385 && sum_of_some(3, 1.5, 2.5, 4.0) == 8 && long_sum(0x1p63L, 1) == 0x1p63L + 1;
}

extern "C" int results() {
    Pair pair = pair_of(3, 4);
    Mixed mixed = mixed_of(2.5, 7);
    Large large = large_of(10);
    std::complex<double> number = square({1, 2});
    return pair.first == 3 && pair.second == 4 && mixed.first == 2.5 && mixed.second == 7 && large.words[4] == 14 &&
           number == std::complex<double>(-3, 4);
}

// What is neither argument nor result, and yet the thread's own.
extern "C" int state_of_the_thread() {
    std::fesetround(FE_DOWNWARD);
    errno = 77;
    int kept = last_error() == 77 && rounding() == FE_DOWNWARD;
    std::fesetround(FE_TONEAREST);
    return kept;
}

extern "C" int catch_what_is_thrown() {
    try {
        throw_number(40);
    } catch (int number) {
        return number + 2;
    }
    return -1;
}

extern "C" int catch_through() {
    try {
        call_back([](void *) { throw 41; }, nullptr);
    } catch (int number) {
        return number + 1;
    }
    return -1;
}

extern "C" int call_first_time() { return *first_time(); }
#endif
