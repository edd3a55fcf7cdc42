# Packages with compiled code: linear algebra, models, random numbers, and a plot through cairo.
# needs: Rscript

prepare() { :; }

run() {
    Rscript --vanilla - <<'END'
set.seed(42)
m <- matrix(rnorm(36), 6)
print(solve(m)[1, ])
print(svd(m)$d)
print(eigen(crossprod(m))$values)
print(coef(lm(mpg ~ wt + hp, data = mtcars)))
print(summary(glm(am ~ wt, data = mtcars, family = binomial))$coefficients)
print(predict(loess(dist ~ speed, cars), data.frame(speed = 12)))
print(splines::bs(1:5, df = 4)[3, ])
print(optim(c(-1.2, 1), function(x) 100 * (x[2] - x[1]^2)^2 + (1 - x[1])^2)$counts)
print(tools::md5sum(R.home("COPYING")) == "" )
print(regmatches("a1b22", gregexpr("[0-9]+", "a1b22", perl = TRUE)))
print(parallel::mclapply(1:4, function(n) n * n, mc.cores = 2))
svg("plot.svg"); plot(cars); invisible(dev.off())
png("plot.png", type = "cairo"); hist(mtcars$mpg); invisible(dev.off())
print(file.size("plot.png") > 1000)
print(capabilities(c("jpeg", "png", "cairo")))
END
}
