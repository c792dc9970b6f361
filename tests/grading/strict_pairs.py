"""Hand-written pairs: how answers are really written, and what must not pass for them. One `gold | answer` a line."""

SAME = r"""
# numbers
5 | 5.
5 | $5$
5 | \boxed{5}
5 | 5.0
5 | +5
5 | {5}
5 | 05
5 | \displaystyle 5
5 | \mathbf{5}
5 | \textbf{5}
5 | 5 \,
5 | x = 5
5 | 5 = x
5 | \text{Answer: } 5
5 | \frac{10}{2}
-5 | −5
-5 | - 5
-5 | (-5)
0 | -0
0.5 | .5
0.5 | 1/2
0.5 | \frac12
0.5 | \tfrac{1}{2}
0.5 | ½
0.5 | 50/100
1.25 | 1\frac{1}{4}
1.25 | 1 1/4
1.25 | \frac54
-1\frac{1}{2} | -\frac{3}{2}
-\frac{1}{2} | \frac{-1}{2}
-\frac{1}{2} | \frac{1}{-2}
-\frac{1}{2} | -0.5
1000 | 1,000
1000 | 1{,}000
1000 | 1\,000
1000 | 1 000
1000 | 10^3
1000000 | 1,000,000
1000000 | 10^{6}
1000000 | 1 \times 10^6
1,234,567 | 1234567
12345.67 | 12,345.67
0.0000672 | 6.72 \times 10^{-5}
.0000672 | 6.72e-5
3.0 | 3
0.\overline{3} | \frac{1}{3}
0.1\overline{6} | 1/6
2^{10} | 1024
2^{10} | 2^10
2^{1009} | 2 \cdot 2^{1008}
\frac{100!}{2^{50}} | \frac{100!}{4^{25}}
10! | 3628800
\binom{10}{3} | 120
{10 \choose 3} | 120
52_8 | 52_{8}
52_8 | (52)_8
1011_2 | 1011_{2}
2{,}5 | 2.5
# roots, pi, e
2\sqrt{2} | \sqrt{8}
2\sqrt{2} | 2\sqrt2
2\sqrt{2} | 2√2
2\sqrt{2} | 2 * sqrt(2)
2\sqrt{2} | 2^{3/2}
\frac{\sqrt{3}}{3} | \frac{1}{\sqrt{3}}
\frac{1+\sqrt{5}}{2} | \frac{\sqrt{5}+1}{2}
\frac{1+\sqrt{5}}{2} | \frac12 + \frac{\sqrt5}{2}
\sqrt[3]{4} | 4^{1/3}
\sqrt[3]{4} | \sqrt[3] 4
\sqrt{7+4\sqrt{3}} | 2+\sqrt{3}
\frac{\pi}{6} | π/6
\frac{\pi}{6} | \frac16 \pi
288\pi | 288 \cdot \pi
e^{i\pi} | -1
1 - \frac{1}{\mathrm{e}} | 1 - e^{-1}
\log_{10} 2 | \frac{\ln 2}{\ln 10}
\log_2 8 | 3
\ln 4 | 2 \ln 2
\sin 60^\circ | \frac{\sqrt{3}}{2}
\cos\frac{\pi}{5} | \frac{1+\sqrt5}{4}
\arctan 1 | \frac{\pi}{4}
\tan^{-1} 1 | \frac{\pi}{4}
|{-3}| | 3
# units and money
5 | 5 \text{ cm}
5 \text{ cm} | 5
5 \text{ cm} | 5 cm
5 \text{ cm} | 5\ \mathrm{cm}
5 \text{ cm} | 50 \text{ mm}
864 \mbox{ inches}^2 | 864 \text{ square inches}
864 \mbox{ inches}^2 | 864 \text{ in}^2
15\mbox{ cm}^2 | 15\text{ cm}^{2}
\$36 | 36
\$36 | 36 \text{ dollars}
\$36 | \$36.00
36 | \$36
\$32,\!348 | 32348
5.4 \text{ cents} | 5.4 cents
600 \text{ km/h} | 600 \text{ kilometers per hour}
90^\circ | 90
90^\circ | 90°
90^\circ | 90^{\circ}
90^\circ | 90 \text{ degrees}
90^\circ | 90 degrees
90^\circ | 90\degree
90^\circ | \frac{\pi}{2}
\frac{270}7\text{ degrees} | \frac{270}{7}^\circ
28\% | 28
28\% | 28 percent
28 | 28\%
28\% | 0.28
28\% | \frac{7}{25}
0.28 | 28\%
1.5 | 150\%
12.5\% | 12\frac12\%
33\frac{1}{3}\% | \frac13
33\frac{1}{3}\% | 33.\overline{3}\%
# base ten, currencies, rates, set commas and full stops
204 | 204_{10}
204 | 204_{\text{ten}}
18.90 | \text{USD } 18.90
\$18.90 | \text{USD 18.9}
1080 | \text{Rs. }1080
£5 | 5 pounds
60 | 60\ \frac{\text{km}}{\text{h}}
9.8 | 9.8\,\frac{\text{m}}{\text{s}^2}
10,000 | 10\text{,}000
113 | 113\text{.}
# a gold that cannot be read, spaced otherwise
$f(x)=a x$, an arbitrary integer $a$ with $\mho(a)=0$ | \displaystyle f(x)=a x, an arbitrary integer a with \mho(a)=0
# signs, labels and words
-7 | {-}7
-7 | \text{negative } 7
7 | \#\{\text{solutions}\} = 7
112 | n = 113 \Rightarrow \text{answer } 112
113 | p = 113, \text{ a prime}
30 | \angle CAD = 30^\circ
f(x)=cx | f(x)=kx
f(x)=cx | f(t) = at \text{ for any real constant } a
f(x)=cx | f(x)=cx, c\in\mathbb{R}
n = 3k | n = 3m
a_n = 2^n+1 | a_k = 2^k+1
x = y = z = 1 | (1,1,1)
(1,1,1) | x = y = z = 1
\text{all positive integers except } 1, 2 | n \in \mathbb{Z}^+ \setminus \{1,2\}
\text{all positive integers except } 1, 2 | \text{All positive integers except 1 and 2}
5 | 5\text{,}
18 | 18 dollars a day
36 | \framebox{36}
18 | \text{\textdollar}18
\text{all odd } n | n \text{ odd}
n \geq 3 | \text{all integers } n \ge 3
(1,2),(2,1) | (1, 2) \quad (2, 1)
5 | \text{a total of } 5
7 | 7\text{ (since } 7 \text{ is prime)}
\emptyset | \text{empty set}
# pairs, lists, sets, intervals
(3,4) | ( 3 , 4 )
(3,4) | \left(3, 4\right)
(3,4) | (3.0, 4)
(3,4) | (x, y) = (3, 4)
(3,4) | x = 3, y = 4
(3,4) | 3, 4
(1,2,3) | \langle 1, 2, 3 \rangle
(-\frac{1}{2}, \frac{7}{2}) | (-0.5, 3.5)
(0;0;0) | (0,0,0)
1,-2 | -2, 1
1,-2 | -2 \text{ and } 1
1,-2 | 1 and -2
1,-2 | x = 1 \text{ or } x = -2
1,-2 | x=1, x=-2
1,-2 | \{1, -2\}
1,-2 | {1, -2}
1,-2 | \left\{ -2, 1 \right\}
1,-2 | x \in \{1, -2\}
3, 5, 7 | 3, 5, \text{ and } 7
3, 5, 7 | 3, 5 and 7
3, 5, 7 | 7; 5; 3
1 \pm \sqrt{19} | 1+\sqrt{19}, 1-\sqrt{19}
1 \pm \sqrt{19} | x = 1 \pm \sqrt{19}
1 \pm \sqrt{19} | \pm \sqrt{19} + 1
\{1\pm\sqrt{5},-2\} | -2, 1-\sqrt5, 1+\sqrt5
-1,0,1 | 0, \pm 1
\frac{1 \pm \sqrt{5}}{2} | \frac{1 + \sqrt{5}}{2}, \frac{1 - \sqrt{5}}{2}
[0,1) | [0, 1)
[0,1) | 0 \le x < 1
[0,1) | \{x : 0 \leq x < 1\}
[0,1) | \{ x \mid 0 \leq x < 1 \}
[0,1) | x \in [0, 1)
(2,\infty) | x > 2
(2,\infty) | (2, +\infty)
(2,\infty) | (2, ∞)
(2,\infty) | 2 < x
(2,\infty) | (2, \infty).
(-\infty, 2) \cup (3, \infty) | (3,\infty)\cup(-\infty,2)
(-\infty, 2) \cup (3, \infty) | x < 2 \text{ or } x > 3
(-\infty, 2) \cup (3, \infty) | (-∞, 2) ∪ (3, ∞)
(-\infty, 2) \cup (3, \infty) | (-oo, 2) U (3, oo)
(-3, 3) | |x| < 3
(-\infty,0)\cup(0,\infty) | x \neq 0
(-\infty,0)\cup(0,\infty) | \mathbb{R} \setminus \{0\}
(-\infty,\infty) | \mathbb{R}
k \geq 2 | k \ge 2
k \geq 2 | [2, \infty)
t(0,4] | (0,4]
# expressions
2n-2 | 2(n-1)
2k+2 | 2 + 2k
x^3+3x-6 | x^3 + 3x - 6
(a+5)(b+2) | (b+2)(a+5)
(a+5)(b+2) | ab + 2a + 5b + 10
\frac{n(n+1)}{2} | \frac12 n (n+1)
\frac{n(n+1)}{2} | \binom{n+1}{2}
\frac{n(n+1)}{2} | n(n+1)/2
-(n-1) / 2 | \frac{1-n}{2}
2^{n}-n-1 | 2^n - (n + 1)
\frac{d !}{2 k(d-k) !} | \frac{d!}{2k(d-k)!}
\lfloor\log _{2} n\rfloor+1 | \lfloor \log_2(n) \rfloor + 1
\lceil n / 2\rceil+1 | \left\lceil \frac{n}{2} \right\rceil + 1
\lceil n / 2\rceil | \lfloor (n+1)/2 \rfloor
\cot x | \frac{1}{\tan x}
\sin^2 x | 1 - \cos^2 x
5r^5 | 5 r^{5}
f(x)=2 x | 2x
f(x)=2 x | f(x) = 2x
f(x)=2 x | f(t) = 2t
f(x)=2 x | 2x = f(x)
y = 2x + 3 | 2x + 3
y = 2x + 3 | 2x - y + 3 = 0
y = 2x + 3 | y - 2x = 3
5x - 7y + 11z + 4 = 0 | 10x - 14y + 22z = -8
m_{\max }=n^{2}-n-1 | n^2 - n - 1
x^2 + y^2 = 4 | 4 = x^2 + y^2
6 - 5i | -5i + 6
\frac{1}{2}+\frac{\sqrt3}{2}i | \frac{1+i\sqrt{3}}{2}
# matrices
\begin{pmatrix} 1 \\ 2 \end{pmatrix} | \begin{bmatrix} 1 \\ 2 \end{bmatrix}
\begin{pmatrix} 1 \\ 2 \end{pmatrix} | \begin{pmatrix}1\\2\end{pmatrix}
\begin{pmatrix} 1/3 \\ 2/3 \end{pmatrix} | \frac13 \begin{pmatrix} 1 \\ 2 \end{pmatrix}
\begin{pmatrix} 1/3 \\ 2/3 \end{pmatrix} | \begin{pmatrix} \frac{1}{3} \\[4pt] \frac{2}{3} \end{pmatrix}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} | \left[\begin{array}{cc} 1 & 2 \\ 3 & 4 \end{array}\right]
# words, choices, times
\text{Evelyn} | Evelyn
\text{Evelyn} | \text{evelyn}
\text{Evelyn} | \mathrm{Evelyn}
\text{Evelyn} | \textbf{Evelyn}.
\text{even} | even
\text{ellipse} | \text{an ellipse}
\text{east} | \text{East}
\text{(C)} | C
\text{(C)} | (C)
\text{(C)} | \textbf{(C)}
\text{(C)} | \text{C}
\text{(C)} | \textbf{(C) }12
C | (C)
C | \text{C}
\text{Yes} | yes
3:30 \text{ PM} | 3:30 p.m.
\text{July 4, 1776} | July 4 1776
7:32 | 7 : 32
6, 8 | \text{6 and 8}
2516_8 | 2516_{\text{eight}}
2516_8 | 2516_{(8)}
3 | **3**
B | \textbf{(B)}
5 | \text{5 hours}
\frac{1}{2} | \frac{1}{2} \text{ or } 0.5
(4, \log _{10} 2) | (4, \log 2)
\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix} | -\begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix}
5 | \approx 5
5 | \text{The answer is } 5
5 | \begin{aligned} x &= 5 \end{aligned}
\frac{1}{2} | {1 \over 2}
5 \text{ euros} | 5€
5 \text{ euros} | €5
\infty | +\infty
2i | \sqrt{-4}
(x-1)^2 | x^{2}-2x+1
2e^{i\pi/3} | 1 + i\sqrt{3}
\frac{x}{2} | \frac x2
\frac{x}{2} | \frac{1}{2} x
10^{-3} | 0.001
AB = 5 | 5
5 | |AB| = 5
5 | \overline{AB} = 5
1, 2 | \text{$1$ and $2$}
\frac{14}{3} | f(-2)+f(-1)+f(0) = 2 + \frac{5}{3} + 1 = \frac{14}{3}
\frac{m}{n} | m/n
2021 \cdot 505 \cdot 337 | 343943885
\sum_{k=1}^{n} k | \frac{n(n+1)}{2}
\sqrt{17} | 4.123105625617661
# units of one letter, or named as functions; converted
5 | 5\text{ m}
5 | 5 m
12 | 12\text{ L}
5 | 5\text{ s}
25 | 25\text{ m}^2
10 | 10^\circ\text{C}
7 | 7\text{ min}
7 | 7 sec
5\text{ m} | 5
5\text{ m} | 5m
5\text{ m} | 5\text{ meters}
1500\text{ m} | 1.5 km
42 | 42\text{元}
1.5 \text{ hours} | 1 hour and 30 minutes
# labels that are sums or formulas, chains
33 | m+n=33
699 | 100m+n=699
104 | AB^2=104
385 | x^2+y^2=385
7 | \gcd(a,b)=7
15 | S(5)=15
7 | \lfloor x\rfloor=7
33 | m + n = 11 + 22 = 33
m+n=33 | 33
\frac{7}{3} | \frac{7}{3} = 2.33
1.41 | \sqrt{2} \approx 1.41
# sets
\{x : x > 3\} | \{x | x > 3\}
(3,\infty) | \{x \,|\, x > 3\}
(3,\infty) | \left\{x \middle| x > 3\right\}
\mathbb{R} | \text{all real numbers}
(-\infty,\infty) | \text{all reals}
(0,\infty) | \mathbb{R}^+
[0,20]\setminus\{12\} | [0,12)\cup(12,20]
(0,2) | (0,1] \cup (1,2)
[2,5) | x \ge 2 \text{ and } x < 5
\{1,2,3\} | \{n \in \mathbb{Z} : 1 \le n \le 3\}
\{1,2,3,4,5\} | 1, 2, \ldots, 5
# times, ratios, decimals
11:30 | 11{:}30
2:3 | 4:6
\frac{2}{3} | 2:3
\frac13 | 0.\bar{3}
\frac13 | 0.(3)
\frac13 | 0.333\ldots
\frac{7}{33} | 0.2121...
3.14 | 3,14
0.125 | 0,125
# parameters, residues, qualifiers, words, styling
k\pi | n\pi
\frac{\pi}{4} + k\pi, k \in \mathbb{Z} | -\frac{3\pi}{4} + n\pi, n \in \mathbb{Z}
x \equiv 3 \pmod 7 | 3 \pmod{7}
3 \pmod 7 | x \equiv 10 \pmod 7
n^2 | n^2 \text{ for all } n
5 | 5 \text{ (since } x>0)
12 | \text{twelve}
2000000 | 2\text{ million}
12 | 12^{\text{th}}
42 | \color{blue}{42}
42 | \Large 42
C | \text{(C) }12
12 | \text{(C) }12
\text{no solution} | \emptyset
"""

DIFFERENT = r"""
5 | 6
5 | -5
5 | 500
5 | 0.05
5 | 5.01
5 | 5x
5 | 5, 6
5 | 5 \text{ or } 6
5 | \{5, 6\}
5 | (5, 5)
5 | 5!
5 | 5^2
5 | 5\pi
5 | \frac{1}{5}
5 | x = 6
5 | x^2 = 5
5 | \text{none}
5 |
33 | 3300
33 | 0.33
70000 | 70005
0.5 | 0.05
\frac{1}{3} | 0.333
\frac{1}{3} | 0.33333
\sqrt{2} | 1.414
\pi | 3.14
\pi | 22/7
2\sqrt{2} | 2\sqrt{3}
4 | 4\sqrt{2}
\frac{1}{2004!} | \frac{1}{2006!}
\frac{1}{2^{99}} | \frac{1}{2^{98}}
2^{1009} | 2^{1009}+1
1000 | 1,0000
1000 | 1
1000 | 1, 000, 000
1\frac{4}{5} | \frac{4}{5}
1\frac{4}{5} | \frac{14}{5}
52_8 | 52_9
1011_2 | 11
90^\circ | 45^\circ
90^\circ | 90\pi
5 \text{ cm} | 5 \text{ m}
5 \text{ cm} | 5 \text{ cm}^2
5 \text{ hours} | 5 \text{ minutes}
\$36 | \$63
\$5 | 5 \text{ cents}
28\% | 0.0028
28\% | 2800
0.28 | 28
28 | 0.28
28 | 0.28\%
0.28 | 0.28\%
\frac37 | \frac37\%
1 | 1\%
33\frac13\% | 33\%
204_8 | 204_{10}
\$5 | 5\text{ EUR}
60\text{ km/h} | 60\,\frac{\text{m}}{\text{s}}
5 | \text{fifth of } 5
5 | \text{the square of } 5
5 | \text{one third of the total of } 5
113 | n = 113 \Rightarrow 112
f(x)=cx | f(x)=c
f(x)=cx | f(x)=kx+1
f(x)=2x+c | f(x)=2c+x
n = 3k | n = 3m+1
n = 3k | m = 3k
x = 3a | x = 3b
a = 3b | a = 3c
a_n = 2^n | b_k = 2^k
(1,1,1) | x = y = 1
x = y = z = 1 | (1,1,0)
\text{all positive integers except } 1, 2 | \text{all positive integers except } 1
113 | 113, \text{ a lower bound}
113 | 113, \text{ an estimate}
\text{odd} | \text{odd or even}
\text{odd} | \text{no odd } n
x \ge 3 | \text{all integers } x \ge 3
5 | 5\text{;} 6
7 | 7\text{ (since } 8\text{ is not)}
\frac{1}{4} | 25
(3,4) | (4,3)
(3,4) | [3,4]
(3,4) | (3,4]
(3,4) | \{3,4\}
(3,4) | (3,4,5)
(3,4) | (3)
(3,4) | 4, 3
\{1,2\} | (1,2)
\{1,2\} | \{1,2,3\}
\{1,2\} | \{1\}
1,-2 | 1
1,-2 | 1, 2
1,-2 | 1, -2, 3
1,-2 | (1,-2)
1 \pm \sqrt{19} | 1 + \sqrt{19}
1 \pm \sqrt{19} | 1 \pm \sqrt{17}
[0,1) | [0,1]
[0,1) | (0,1)
[0,1) | (0,1]
[0,1) | 0 < x < 1
(2,\infty) | [2,\infty)
(2,\infty) | (-\infty,2)
(2,\infty) | x < 2
(2,\infty) | (2, 1000)
(-\infty, 2) \cup (3, \infty) | (-\infty, 2)
(-\infty, 2) \cup (3, \infty) | (-\infty, 2] \cup (3, \infty)
(-\infty, 2) \cup (3, \infty) | (-\infty, \infty)
(-\infty, 2) \cup (3, \infty) | (-\infty, 2) \cap (3, \infty)
k \geq 2 | k > 2
k \geq 2 | k \le 2
x=5 | y=5
2n-2 | 2n-1
2n-2 | 2m-2
2n-2 | 2N-2
2n-2 | n-1
x | -x
|x| | x
\frac{n(n+1)}{2} | \frac{n(n-1)}{2}
\lfloor\sqrt{n-1}\rfloor | \lfloor\sqrt{n}\rfloor
\lceil n/2\rceil | \lfloor n/2 \rfloor
f(x)=2x | f(x)=3x
f(x)=2x | g(x)=2x
f(x)=2x | f(x)=2t
y = 2x + 3 | y = 2x - 3
y = 2x + 3 | y = 3x + 2
5x - 7y + 11z + 4 = 0 | 5x - 7y + 11z - 4 = 0
6 - 5i | 6 + 5i
6 - 5i | 6 - 5
\begin{pmatrix} 1 \\ 2 \end{pmatrix} | \begin{pmatrix} 2 \\ 1 \end{pmatrix}
\begin{pmatrix} 1 \\ 2 \end{pmatrix} | \begin{pmatrix} 1 & 2 \end{pmatrix}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} | \begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} | \begin{vmatrix} 1 & 2 \\ 3 & 4 \end{vmatrix}
\text{Evelyn} | \text{Evan}
\text{even} | \text{odd}
\text{even} | \text{not even}
\text{(C)} | \text{(D)}
\text{(C)} | \text{(A)}, \text{(C)}
C | c
d | \text{E}
3:30 \text{ PM} | 3:30 \text{ AM}
12:00 | 1:00
5 \text{ euros} | 5 \text{ dollars}
\infty | -\infty
\infty | 10^{100}
\frac{x}{2} | \frac{2}{x}
\sum_{k=1}^{n} k | \sum_{k=0}^{n-1} k
5 | 5 \text{ and not } 6
6, 8 | \text{6 and 9}
6, 8 | 68
\frac{1}{2} | \frac{1}{2} \text{ or } 0.6
\ln 2 | \log_{10} 2
\text{(B)} | \text{B, C}
-\frac{1}{2} | \frac{-1}{-2}
(-2,1) | (-2,-1)
(2,-1) \text{ and } (1,2) | (2,-1)
2\sqrt{13} | \sqrt{26}
3\sqrt{13} | 3 + \sqrt{13}
3\sqrt{13} | 33\sqrt{3}
e | 2.718
e^2 | 2e
x^{10} | x^1 0
7:32 | 32:7
\text{Yes} | \text{No}
9^{9^{9^9}} | 9^{9^{9^8}}
\pm 2021 | 2021
19, 46, \text{ and } 82 | 21, 36, \text{ and } 82
\frac{2}{3} | \frac{3}{2}
3.21 | 321
3.21 | 3.2
x \in [-2,7] | [-2,7)
# commas are no points, unless the gold has the same digits
2 | 2,0
3 | 3,000
\frac65 | 1,2
1,234 | 1.234
1.5 | 1,500
4.2 | 42
42 | 4 2
12 | 12...
\lfloor x \rfloor | x
\lceil x \rceil | \lfloor x \rfloor + 1
42 | \max(42, x)
1000 - x | |x - 1000|
# hedges, changed by words, false chains
42 | 42 \text{ or } 43
42 | 42 \text{ or so}
42 | 42 \text{ minus } 1
42 | \text{not } 42
42 | \text{The answer is not } 42
42 | 42 \text{ if } n \text{ is even}
42 | 42 \text{ thousand}
42 | 41 = 42
42 | 43 = 42
42 | m + n = 41 + 2 = 42
\sqrt{2} | \sqrt{2} \approx 2.41
33 | m+n=34
33 | 3x = 33
x^2+y^2=25 | 25
a + 3z = 0 | 0
m+n=33 | m-n=33
8 | 8 \text{ out of } 9
12 | \text{twenty}
12 | \text{twelve or thirteen}
\text{(D)} | \text{(C) }12
\text{(A)} | \text{(A) or (B)}
13 | \text{(C) }12
# units, sets, families, residues that differ
5\text{ m} | 5\text{ s}
5\text{ m} | 5\text{ km}
1500\text{ m} | 15 km
10^\circ\text{C} | 10^\circ\text{F}
2:05 \text{ p.m.} | 2:05 \text{ a.m.}
11:30 | 11.30
2:3 | 3:2
[1,3] | \{x \in \mathbb{Z} : 1 \le x \le 3\}
[0,20]\setminus\{12\} | [0,20]
\mathbb{R} | \mathbb{R}^+
(0,\infty) | \text{all positive integers}
\frac13 | 0.33
\frac13 | 0.3\ldots
\pi | 3.14159\ldots
k\pi | 2k\pi
n^2 | k^2
3 \pmod 7 | 3 \pmod 8
3 \pmod 7 | 3
0 | \text{no solution}
\text{no solution} | 0
\emptyset | \{\emptyset\}
"""


def read(table: str) -> list[tuple[str, str]]:
    """The pairs of a table; the answer is empty where nothing follows the bar."""
    lines = [line for line in table.strip().splitlines() if not line.startswith("# ")]
    pairs = []
    for line in lines:
        gold, _, answer = line.partition(" | ") if " | " in line else (line.removesuffix(" |"), "", "")
        pairs.append((gold, answer))
    return pairs
