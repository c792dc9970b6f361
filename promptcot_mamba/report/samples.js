"use strict";
// The sample browser. Model-written text is only ever put in as text; `html` fields are MathML rebuilt in Python.
(() => {
  const data = JSON.parse(document.getElementById("samples").textContent);
  const root = document.getElementById("browser");
  const PAGE = 20;
  let shown = PAGE;

  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const select = (label, values) => {
    const box = make("label", "filter", label + " ");
    const list = make("select");
    list.append(new Option("all", ""), ...values.map((value) => new Option(value, value)));
    list.setAttribute("aria-label", label);
    box.append(list);
    bar.append(box);
    list.addEventListener("change", refresh);
    return list;
  };
  const unique = (values) => [...new Set(values)].sort();
  const modelOf = (sample) => data.models[sample.model];
  const textOf = (sample) =>
    [data.problems[sample.problem].id, data.problems[sample.problem].html, sample.thought, sample.answer, sample.extracted, sample.gold]
      .join("\n")
      .toLowerCase();

  const bar = make("div", "bar");
  const benchmark = select("benchmark", unique(data.samples.map((sample) => sample.benchmark)));
  const model = select("model", data.models);
  const verdict = select("verdict", unique(data.samples.map((sample) => sample.verdict)));
  const search = make("input");
  search.type = "search";
  search.placeholder = "search";
  search.setAttribute("aria-label", "search");
  search.addEventListener("input", refresh);
  const count = make("span", "count");
  bar.append(search, count);
  const compared = make("div", "compared");
  const list = make("div", "samples");
  const more = make("button", "more", "more");
  more.addEventListener("click", () => {
    shown += PAGE;
    draw();
  });
  root.append(bar, compared, list, more);

  function matching() {
    const words = search.value.toLowerCase();
    return data.samples.filter(
      (sample) =>
        (!benchmark.value || sample.benchmark === benchmark.value) &&
        (!model.value || modelOf(sample) === model.value) &&
        (!verdict.value || sample.verdict === verdict.value) &&
        (!words || textOf(sample).includes(words)),
    );
  }

  function body(sample) {
    const box = make("div");
    const fold = make("details");
    fold.append(make("summary", "", `thought, ${sample.tokens ?? "?"} tokens`), make("pre", "thought", sample.thought));
    const answer = make("div", "answer");
    answer.innerHTML = sample.answer;
    const why = sample.reason === sample.verdict ? "" : ` (${sample.reason})`;
    const verdictLine = make("p", `verdict ${sample.verdict.replace(" ", "-")}`, sample.verdict + why);
    box.append(fold, answer, verdictLine);
    if (sample.extracted || sample.gold) {
      const beside = make("p", "beside", "answered ");
      beside.append(make("code", "", sample.extracted || "nothing"));
      if (sample.gold) beside.append(" · right answer ", make("code", "gold", sample.gold));
      box.append(beside);
    }
    if (sample.graders) box.append(make("p", "note", sample.graders));
    return box;
  }

  function card(sample) {
    const problem = data.problems[sample.problem];
    const box = make("article", "sample");
    const head = make("header");
    head.append(make("span", "", `${sample.benchmark} · ${problem.id} · ${modelOf(sample)} · run ${sample.run}`));
    const rivals = data.samples.filter((other) => other.problem === sample.problem && other !== sample);
    if (rivals.length) {
      const button = make("button", "", "side by side");
      button.addEventListener("click", () => compare(sample, rivals));
      head.append(button);
    }
    const question = make("div", "question");
    question.innerHTML = problem.html;
    box.append(head, question, body(sample));
    return box;
  }

  function column(chosen, choices) {
    const box = make("div", "column");
    const list = make("select");
    list.setAttribute("aria-label", "run");
    choices.forEach((sample, place) => list.append(new Option(`${modelOf(sample)} · run ${sample.run} · ${sample.verdict}`, place)));
    list.value = choices.indexOf(chosen);
    let content = body(chosen);
    list.addEventListener("change", () => {
      const next = body(choices[list.value]);
      content.replaceWith(next);
      content = next;
    });
    box.append(list, content);
    return box;
  }

  function compare(sample, rivals) {
    const problem = data.problems[sample.problem];
    const choices = [sample, ...rivals];
    const question = make("div", "question");
    question.innerHTML = problem.html;
    const close = make("button", "", "close");
    close.addEventListener("click", () => compared.replaceChildren());
    const head = make("header", "", `${sample.benchmark} · ${problem.id} `);
    head.append(close);
    const columns = make("div", "columns");
    columns.append(column(sample, choices), column(rivals[0], choices));
    compared.replaceChildren(head, question, columns);
    compared.scrollIntoView({ block: "nearest" });
  }

  function draw() {
    const found = matching();
    const rest = data.left_out ? `, ${data.left_out.toLocaleString()} more are not in this page` : "";
    count.textContent = `${found.length.toLocaleString()} of ${data.samples.length.toLocaleString()} samples${rest}`;
    list.replaceChildren(...found.slice(0, shown).map(card));
    more.hidden = found.length <= shown;
  }

  function refresh() {
    shown = PAGE;
    draw();
  }

  draw();
})();
